"""What takes too long for the tests: a run that is killed many times, and a run with very many checkpoints.

    python scripts/endurance.py kills --times 20    # a few minutes
    python scripts/endurance.py soak --steps 3000   # a few minutes

`kills` sends SIGKILL to a short run at random moments and repeats its command each time. In the end the parameters must
be those of a run that was left alone, to the bit, and the lines of metrics.jsonl the same. `soak` saves every 20 steps
and prints the process's memory, open files and threads.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet_jax.config import Config, Conv, Dense, ModelConfig, preset
from alexnet_jax.training import checkpoint, fit
from alexnet_jax.training.log import read_metrics, validation

TIMES = ("images_per_second", "data_wait")
EPOCHS = 4


def narrow(batch: int, epochs: float) -> Config:
    """`fashion` with few kernels."""
    config = preset("fashion")
    assert isinstance(config.model, ModelConfig)
    layers: dict[str, Any] = {}
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
        layer: Conv | Dense = getattr(config.model, name)
        layers[name] = replace(layer, kernels=8) if isinstance(layer, Conv) else replace(layer, units=32)
    optim = replace(config.optim, batch=batch, epochs=epochs)
    return replace(config, model=replace(config.model, **layers), optim=optim)


# ---------------------------------------------------------------------------------------------------------- kills


def kills(times: int, seed: int, where: Path) -> None:
    file = where / "narrow.py"
    names = "BatchNorm, Config, Conv, DataConfig, Dense, ModelConfig, OptimConfig, Pool, ResponseNorm, Schedule"
    file.write_text(f"from alexnet_jax.config import {names}\n\nCONFIG = {narrow(200, EPOCHS)!r}\n")

    def start(run: Path) -> "subprocess.Popen[bytes]":
        options = ("--workdir", run, "--log-every", 1, "--save-minutes", 0)
        command = [sys.executable, "-m", "alexnet_jax.train", file, *options]
        own_cache = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(where / "cache")}
        return subprocess.Popen(list(map(str, command)), env=own_cache, stdout=subprocess.DEVNULL)

    def ended(run: Path) -> float:
        began, process = time.monotonic(), start(run)
        if process.wait():
            raise SystemExit(f"the command ended with {process.returncode}")
        return time.monotonic() - began

    ended(where / "alone")
    seconds = ended(where / "cached")
    print(f"left alone: {seconds:.0f} s", flush=True)
    draw, seen, runs = random.Random(seed), Counter[str](), [where / "killed-1"]
    for number in range(1, times + 1):
        began, process, pause = time.time(), start(runs[-1]), draw.uniform(0.2, 0.7) * seconds
        while process.poll() is None and time.time() < began + pause:
            time.sleep(0.01)
        if process.poll() == 0:  # this run is complete; the next command begins another
            runs.append(where / f"killed-{len(runs) + 1}")
            began, process = time.time(), start(runs[-1])
            time.sleep(pause)
        process.kill()
        process.wait()
        place = phase(runs[-1], began)
        seen[place] += 1
        print(f"{number}: killed after {pause:.1f} s, {place}", flush=True)
    ended(runs[-1])
    print(f"{times} kills of {len(runs)} runs: {', '.join(f'{count} {place}' for place, count in seen.items())}")
    expected = outcome(where / "alone")
    for run in runs:
        bits, lines = outcome(run)
        print(f"{run.name}: {'the same bits' if bits == expected[0] else 'OTHER BITS'} in the parameters and moments, "
              f"{'the same lines' if lines == expected[1] else 'OTHER LINES'} in metrics.jsonl")  # fmt: skip
        if (bits, lines) != expected:
            raise SystemExit(1)


def outcome(run: Path) -> tuple[Any, Any]:
    """The digests of the last checkpoint, and the lines of metrics.jsonl without their times."""
    lines = [{name: line[name] for name in line if name not in TIMES} for line in read_metrics(run)]
    return checkpoint.find(run).digests, lines


def phase(run: Path, began: float) -> str:
    """What a run was doing when it was killed, as far as its directory shows."""
    log, saved, lines = run / "metrics.jsonl", checkpoint.newest_first(run), read_metrics(run)
    if not log.exists() or log.stat().st_mtime < began:
        return "while starting"
    if not lines or (saved and lines[-1]["step"] <= int(saved[0].name) and "train/loss" in lines[-1]):
        what = "while compiling, or just after a save"
    elif lines[-1]["epoch"] >= EPOCHS and "train/loss" not in lines[-1] and f"{validation(10)}/loss" not in lines[-1]:
        what = "in the ten crops"
    elif "train/loss" in lines[-1] and lines[-1]["epoch"] % 1 == 0:
        what = "in a validation"
    else:
        what = "between steps"
    return f"in a save ({what})" if list(run.glob("checkpoints/*/*tmp*")) else what


# ----------------------------------------------------------------------------------------------------------- soak


def soak(steps: int, every: int, where: Path) -> None:
    real, saves = checkpoint.Writer.save_latest, Counter[str]()
    print("| step | memory, MB | open files | threads | checkpoints so far |")
    print("|---|---|---|---|---|")

    def due(_: checkpoint.Writer, step: int) -> bool:
        if step % every == 0:
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            files = len(os.listdir("/proc/self/fd"))
            print(
                f"| {step:,} | {memory:,.0f} | {files} | {threading.active_count()} | {saves['latest']} |", flush=True
            )
        return step % 20 == 0

    def save(writer: checkpoint.Writer, *state: Any) -> None:
        saves["latest"] += 1
        real(writer, *state)

    checkpoint.Writer.due, checkpoint.Writer.save_latest = due, save  # type: ignore[assignment, method-assign]
    fit.fit(narrow(16, 1000.0), where / "soak", steps=steps, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("kills", "soak"))
    parser.add_argument("--times", type=int, default=20, help="kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default: 0)")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the soak (default: 3000)")
    parser.add_argument("--every", type=int, default=100, help="steps between its lines (default: 100)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if options.part == "kills":
            kills(options.times, options.seed, Path(directory))
        else:
            soak(options.steps, options.every, Path(directory))


if __name__ == "__main__":
    main()
