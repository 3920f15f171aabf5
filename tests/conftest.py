"""Four CPU devices, strict broadcasting, a compilation cache for the session, and what many tests share."""

import contextlib
import io
import os
import runpy
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import alexnet_jax as alexnet
from alexnet_jax.config import Config, Conv, Dense, Schedule, presets
from alexnet_jax.data import records, writing

# Programs compiled here or in child processes are kept for the session, and stay out of the user's cache.
CACHE = tempfile.TemporaryDirectory(prefix="alexnet_jax-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name

jax.config.update("jax_compilation_cache_dir", CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # as the commands set it
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

CLASSES = ["round", "square", "other"]


@pytest.fixture(scope="session")
def tiny() -> Config:
    """`fashion` with few kernels: every kind of layer, three exchanges and the sum."""
    both = ("activation", "norm", "pool")
    fashion = presets.preset("fashion")
    model = replace(
        fashion.model,
        conv1=Conv(8, 5, stride=2, padding=(2, 2), std=0.02, then=both),
        conv2=Conv(8, 3, padding=(1, 1), std=0.2, bias=0.1, then=both),
        conv3=Conv(8, 3, padding=(1, 1), std=0.2),
        conv4=Conv(8, 3, padding=(1, 1), std=0.2),
        conv5=Conv(8, 3, padding=(1, 1), std=0.2, then=("activation", "pool")),
        fc6=Dense(16, std=0.2),
        fc7=Dense(16, std=0.2),
        fc8=Dense(len(CLASSES), std=0.1),
    )
    # A plateau that drops at once, because a run must remember its plateau across an interruption.
    optim = replace(fashion.optim, batch=8, epochs=3.0, bias_schedule=Schedule("plateau", patience=1))
    return replace(fashion, model=model, optim=optim)


@pytest.fixture(scope="session")
def tiny_params(tiny: Config) -> Any:
    """Fresh parameters of the tiny network. A test that gives them to a training step must copy them."""
    return alexnet.init(tiny.model, jax.random.key(0))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 training and 21 validation images: noise around one grey level per class. Neither fills its last batch."""
    rng = np.random.default_rng(0)

    def examples(count: int) -> list[tuple[np.ndarray, int]]:
        labels = rng.integers(0, 3, count)
        return [(rng.integers(0, 80, (28, 28, 1)).astype(np.uint8) + np.uint8(80 * label), label) for label in labels]

    directory = tmp_path_factory.mktemp("data") / "tiny"
    writing.write(directory, {records.TRAIN: examples(44), records.VALIDATION: examples(21)}, CLASSES, "noise")
    return directory


@pytest.fixture(scope="session")
def tiny_file(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny config as a Python file for the train command."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    names = "BatchNorm, Config, Conv, DataConfig, Dense, ModelConfig, OptimConfig, Pool, ResponseNorm, Schedule"
    path.write_text(f"from alexnet_jax.config import {names}\n\nCONFIG = {tiny!r}\n")
    return path


@dataclass(frozen=True)
class Ended:
    """What a command that ran in this process returned and printed."""

    code: int
    out: str
    err: str

    @property
    def refused(self) -> str:
        """The one sentence that the command printed about bad input."""
        assert self.code == 2, self
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, f"more than one line: {self.err}"
        return self.err


def run_command(name: str | Path, *arguments: object) -> Ended:
    """`python -m alexnet_jax.NAME ARGUMENTS`, or `python PATH ARGUMENTS`, without a new process."""
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = [str(name), *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if isinstance(name, Path):
                runpy.run_path(str(name), run_name="__main__")
            else:
                sys.modules.pop(f"alexnet_jax.{name}", None)  # runpy warns about a module that a test has imported
                runpy.run_module(f"alexnet_jax.{name}", run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(params=["cpu", "elsewhere"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Some layers have one form for CPUs and another for all other platforms. Both run on a CPU."""
    if request.param == "elsewhere":
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays))
    return str(request.param)
