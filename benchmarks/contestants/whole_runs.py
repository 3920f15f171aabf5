"""How long whole commands take from their launch: to start, to finish a first step, to reach a result."""

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
COUNTERPART = Path(__file__).parent / "pytorch.py"

TRAIN_FASHION = [sys.executable, "-m", "alexnet_jax.train", "fashion"]

NOT_REACHED = "it exited before that"

Outcome = float | str
"""seconds, or why there is no figure"""
Times = dict[str, list[Outcome]]
"""the outcome of each run, by what was timed"""


def seconds_of(command: list[str]) -> Outcome:
    """Seconds from a command's start to its end."""
    began = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return time.perf_counter() - began if ended.returncode == 0 else failure(ended.returncode, ended.stderr)


def failure(code: int, errors: str) -> str:
    words = last_words(errors)
    return f"it exited with code {code}" + (f" and the message {words.strip()[:200]!r}" if words else "")


def seconds_until(
    command: list[str], log: Path, said: Callable[[dict[str, Any]], bool], cache: Path | None = None
) -> Outcome:
    """Seconds from a command's start until a line of JSON in `log` satisfies `said`. Then the command is killed.

    The command's output goes to `log`. If the directory of `log` does not exist yet, the command is expected to create
    it and to write `log` itself.
    """
    environment = os.environ | ({"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {})
    with open(log if log.parent.is_dir() else os.devnull, "w") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        read = 0
        try:
            while True:
                ended = process.poll() is not None
                if log.exists() and log.stat().st_size > read:  # only new lines, to leave the cores to the command
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
                    return NOT_REACHED
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()


def first_step(line: dict[str, Any]) -> bool:
    return line["step"] >= 1


def runs_of_fashion(
    seed: int,
    said: Callable[[dict[str, Any]], bool],
    torch_python: str | None,
    inputs: Path,
    tick: Callable[[], None],
) -> dict[str, Outcome]:
    """Seconds until a line of a training run satisfies `said`.

    Ours runs with an empty compilation cache, then with the cache that this run filled. PyTorch's runs on what
    `write_pictures` wrote to `inputs`.
    """
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for kind in OURS_COLD, OURS_WARM:
            run = directory / kind.split()[1]
            command = [*TRAIN_FASHION, "--seed", str(seed), "--log-every", "1", "--workdir", str(run)]
            found[kind] = seconds_until(command, run / "metrics.jsonl", said, directory / "cache")
            tick()
        if torch_python:
            command = [torch_python, "-I", str(COUNTERPART), str(inputs), str(seed)]
            found[TORCH] = seconds_until(command, directory / "said.jsonl", said)
            tick()
    return found


def write_pictures(directory: Path, config: Config) -> None:
    """Writes the embedded images, and the factor on the learning rates at each step, for PyTorch's training."""
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
    np.savez(directory / "pictures.npz", **arrays)  # type: ignore[arg-type]  # mypy takes an array for allow_pickle


def start_up(runs: int, torch_python: str | None, inputs: Path, tick: Callable[[], None]) -> Times:
    """Seconds until the package is imported, until --help is printed, and until `fashion` has done its first step."""
    commands = {
        "import alexnet_jax": [sys.executable, "-c", "import alexnet_jax"],
        "python -m alexnet_jax.train --help": [sys.executable, "-m", "alexnet_jax.train", "--help"],
    } | ({"import torch": [torch_python, "-I", "-c", "import torch"]} if torch_python else {})
    times: Times = {}
    for _ in range(runs):
        for what, command in commands.items():
            times.setdefault(what, []).append(seconds_of(command))
            tick()
        for what, took in runs_of_fashion(0, first_step, torch_python, inputs, tick).items():
            times.setdefault(f"first step: {what}", []).append(took)
    return times


def time_to_result(
    target: float, seeds: int, torch_python: str | None, inputs: Path, tick: Callable[[], None]
) -> Times:
    """Seconds until the one-crop validation error of `fashion` is at most the target, for each seed."""

    def reached(line: dict[str, Any]) -> bool:
        return line.get("validation/top1_error", 1.0) <= target

    times: Times = {}
    for seed in range(seeds):
        for what, took in runs_of_fashion(seed, reached, torch_python, inputs, tick).items():
            times.setdefault(what, []).append(took)
    return times
