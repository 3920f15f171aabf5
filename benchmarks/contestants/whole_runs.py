"""How long whole commands take, from the moment they are given: to their start, to their first step, to a result."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.data.records import EMBEDDED, TRAIN, VALIDATION, Records
from alexnet_jax.training.optimiser import fraction
from contestants.turns import last_words

OURS_COLD, OURS_WARM, TORCH = "alexnet_jax, empty cache", "alexnet_jax, filled cache", "PyTorch, eager"
TWIN = Path(__file__).parent / "pytorch.py"

Outcome = float | str
"""seconds, or why there are none"""
Times = dict[str, list[Outcome]]
"""of each run, by what was waited for"""


def seconds_of(command: list[str]) -> Outcome:
    """Of a command from its start to its end."""
    began = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return time.perf_counter() - began if ended.returncode == 0 else failure(ended.returncode, ended.stderr)


def failure(code: int, errors: str) -> str:
    words = last_words(errors)
    return f"it ended with code {code}" + (f" and {words.strip()[:200]!r}" if words else "")


def seconds_until(
    command: list[str], log: Path, said: Callable[[dict[str, Any]], bool], cache: Path | None = None
) -> Outcome:
    """Of a command from its start to a line of JSON in `log` that says so. It is ended there.

    `log` takes what the command prints, unless that goes into a directory of its own that does not exist yet.
    """
    environment = os.environ | ({"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {})
    with open(log if log.parent.is_dir() else os.devnull, "w") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        read = 0
        try:
            while True:
                ended = process.poll() is not None
                if log.exists() and log.stat().st_size > read:  # only what is new, as the cores are the contestant's
                    with log.open("rb") as lines:
                        lines.seek(read)
                        whole = lines.read().rpartition(b"\n")[0]
                    read += len(whole) + 1 if whole else 0
                    if any(said(json.loads(line)) for line in whole.splitlines()):
                        return time.perf_counter() - began
                if ended and process.returncode:
                    errors.seek(0)
                    return failure(process.returncode, errors.read())
                if ended:
                    return "it ended before"
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()


def first_step(line: dict[str, Any]) -> bool:
    return line["step"] >= 1


def runs_of_fashion(
    seed: int, said: Callable[[dict[str, Any]], bool], torch_python: str | None, twins: Path, tick: Callable[[], None]
) -> dict[str, Outcome]:
    """Seconds until a training run says so: ours with an empty compilation cache and with the one that this filled,
    and PyTorch's on what `write_pictures` has put into `twins`."""
    train = [sys.executable, "-m", "alexnet_jax.train", "fashion", "--seed", str(seed), "--log-every", "1"]
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for kind in OURS_COLD, OURS_WARM:
            run = directory / kind.split()[1]
            command = [*train, "--workdir", str(run)]
            found[kind] = seconds_until(command, run / "metrics.jsonl", said, directory / "cache")
            tick()
        if torch_python:
            command = [torch_python, "-I", str(TWIN), str(twins), str(seed)]
            found[TORCH] = seconds_until(command, directory / "said.jsonl", said)
            tick()
    return found


def write_pictures(directory: Path, config: Config) -> None:
    """The embedded pictures, and by what the rates of each step are multiplied, for the PyTorch twin."""
    records = Records(EMBEDDED)
    arrays: dict[str, np.ndarray] = {"mean": np.asarray(records.statistics.mean_HWC, np.float32)}
    for split, name in (TRAIN, "train"), (VALIDATION, "validation"):
        pictures = records.gather(split, np.arange(records.examples(split)))
        arrays |= {name: pictures["image"], f"{name}_labels": pictures["label"]}
    optim, examples = config.optim, records.examples(TRAIN)
    steps = math.ceil(optim.epochs * examples / optim.batch)
    arrays["fractions"] = np.array(
        [fraction(optim.schedule, step * optim.batch / examples, optim.epochs, 0) for step in range(steps)]
    )
    np.savez(directory / "pictures.npz", **arrays)  # type: ignore[arg-type]  # its allow_pickle


def start_up(runs: int, torch_python: str | None, twins: Path, tick: Callable[[], None]) -> Times:
    """Until the package is there, until help is there, and until the first step of `fashion` is done."""
    commands = {
        "import alexnet_jax": [sys.executable, "-c", "import alexnet_jax"],
        "python -m alexnet_jax.train --help": [sys.executable, "-m", "alexnet_jax.train", "--help"],
    } | ({"import torch": [torch_python, "-I", "-c", "import torch"]} if torch_python else {})
    times: Times = {}
    for _ in range(runs):
        for what, command in commands.items():
            times.setdefault(what, []).append(seconds_of(command))
            tick()
        for what, took in runs_of_fashion(0, first_step, torch_python, twins, tick).items():
            times.setdefault(f"first step: {what}", []).append(took)
    return times


def time_to_result(target: float, seeds: int, torch_python: str | None, twins: Path, tick: Callable[[], None]) -> Times:
    """Until the one-crop validation error of `fashion` is at most the target, seed by seed."""

    def reached(line: dict[str, Any]) -> bool:
        return line.get("validation/top1_error", 1.0) <= target

    times: Times = {}
    for seed in range(seeds):
        for what, took in runs_of_fashion(seed, reached, torch_python, twins, tick).items():
            times.setdefault(what, []).append(took)
    return times
