"""From which batch on does the error rise? Momentum and LARS on Fashion-MNIST, with equal epochs.

    python scripts/large_batch.py              # hours; it goes on where it was interrupted
    python scripts/large_batch.py --report     # the table and the plot of what is measured

The network is `fashion`, for 12 epochs of the embedded 10,000 images, with a warm-up of two epochs and then a fall to 0
along half a wave. For each rule and batch the learning rate is chosen by one run (seed 100) each of several rates: the
one with the lowest error on the training images. So no test image decides. Then come the seeds.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from alexnet_jax.ablate import ready
from alexnet_jax.ablation import results
from alexnet_jax.ablation.measure import Task, key_of, measure
from alexnet_jax.ablation.results import Result, digest
from alexnet_jax.config import BadInput, Config, Schedule, preset
from alexnet_jax.data.records import EMBEDDED, Records
from alexnet_jax.networks.drawing import INK, LANES, drawn

ROOT = Path(__file__).parent.parent
OUT = ROOT / "experiments" / "results" / "large_batch"
BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
RULES: tuple[Literal["sgd", "lars"], ...] = ("sgd", "lars")
# At a batch of 64, where sgd's first is the preset's. For larger batches they rise with the root of the batch.
RATES = {"sgd": (0.04, 0.08, 0.16), "lars": (1.0, 3.0, 9.0)}
TRIAL, SEEDS = 100, range(5)
NAMES = {"sgd": "momentum", "lars": "LARS"}


def config_of(rule: Literal["sgd", "lars"], batch: int, rate: float, seed: int) -> Config:
    base = preset("fashion")
    schedule = Schedule("cosine", warmup=2.0)
    optim = replace(base.optim, rule=rule, batch=batch, rate=rate, epochs=12.0, schedule=schedule, bias_schedule=None)
    return replace(base, optim=optim, seed=seed)


def rates_of(rule: str, batch: int) -> list[float]:
    return [float(f"{rate * (batch / 64) ** 0.5:.3g}") for rate in RATES[rule]]


def task_of(rule: Literal["sgd", "lars"], batch: int, rate: float, seed: int, runs: Path) -> Task:
    config = config_of(rule, batch, rate, seed)
    key = key_of(f"{rule}_{batch}", config, Records(EMBEDDED), None)
    return Task(key, config, runs / f"{digest(config)}-{seed}", None)


def known() -> dict[tuple[str, int, float, int], Result]:
    """{(rule, batch, rate, seed): result} of what is measured."""
    found = {(result.config, result.seed): result for result in results.read(OUT)} if OUT.is_dir() else {}
    return {
        (rule, batch, rate, seed): found[digest(config_of(rule, batch, rate, seed)), seed]
        for rule in RULES
        for batch in BATCHES
        for rate in rates_of(rule, batch)
        for seed in (TRIAL, *SEEDS)
        if (digest(config_of(rule, batch, rate, seed)), seed) in found
    }


def chosen(rule: str, batch: int, there: dict[tuple[str, int, float, int], Result]) -> float | None:
    """The rate with the lowest training error; None if a trial is missing."""
    rates = rates_of(rule, batch)
    if not all((rule, batch, rate, TRIAL) in there for rate in rates):
        return None

    def error(rate: float) -> float:
        found = there[rule, batch, rate, TRIAL].train_error
        return math.inf if math.isnan(found) else found

    return min(rates, key=error)


def missing(runs: Path) -> Iterator[Task]:
    """What is still to be measured: the trials, then seed by seed, so that an early end leaves whole curves."""
    for rule in RULES:
        for batch in BATCHES:
            for rate in rates_of(rule, batch):
                if (rule, batch, rate, TRIAL) not in known():
                    yield task_of(rule, batch, rate, TRIAL, runs)
    for seed in SEEDS:
        for rule in RULES:
            for batch in BATCHES:
                best = chosen(rule, batch, known())
                if best is not None and (rule, batch, best, seed) not in known():
                    yield task_of(rule, batch, best, seed, runs)


def report() -> None:
    """The table as Markdown, and the plot."""
    there = known()
    lines = ["| batch | steps | rule | rate | seeds | top-1 error, ten crops | training error |", "|" + "---|" * 7]
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for batch in BATCHES:
        for rule in RULES:
            rate = chosen(rule, batch, there)
            if rate is None:
                continue
            seeds = [there[rule, batch, rate, seed] for seed in SEEDS if (rule, batch, rate, seed) in there]
            if not seeds:
                continue
            there_are = [one for one in seeds if not math.isnan(one.top1_error)]
            count = f"{len(seeds)}" + (f", {len(seeds) - len(there_are)} diverged" if there_are != seeds else "")
            errors, train = [100 * one.top1_error for one in there_are], [100 * one.train_error for one in there_are]
            spread = stdev(errors) if len(errors) > 1 else 0.0
            figures = f"{fmean(errors):.2f} % ± {spread:.2f} | {fmean(train):.2f} %" if errors else "none | none"
            lines.append(f"| {batch:,} | {seeds[0].steps:,} | {NAMES[rule]} | {rate:g} | {count} | {figures} |")
            if errors:
                curves.setdefault(rule, []).append((batch, fmean(errors), spread))
    (OUT / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    with drawn(ROOT / "docs" / "large_batch.png", (7, 4)) as axes:
        for (name, points), marker, colour in zip(curves.items(), "os", LANES, strict=False):
            batches, heights, spreads = zip(*points, strict=True)
            axes.errorbar(batches, heights, spreads, marker=marker, color=colour, capsize=3, label=NAMES[name])
        axes.set_xscale("log", base=2)
        axes.set_xticks(BATCHES, [f"{batch:,}" for batch in BATCHES])
        axes.set(xlabel="batch, with equal epochs", ylabel="top-1 error, ten crops, %")
        axes.grid(color=INK, alpha=0.2)
        axes.legend(frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only write the table and the plot")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "large_batch", help="run directories")
    options = parser.parse_args()
    ready()
    for task in () if options.report else missing(options.runs):
        optim = task.config.optim
        try:
            result = measure(task)
        except BadInput as error:  # it diverged, which is a result, without figures
            print(error, flush=True)
            nan = math.nan
            result = Result(*task.key, digest(task.config), nan, nan, nan, nan, nan, nan, nan, {}, "diverged")
        results.append(OUT, result)
        print(f"{task.key.experiment} rate {optim.rate:g} seed {task.key.seed}: top-1 error {result.top1_error:.4f}, "
              f"training {result.train_error:.4f}, {result.seconds:.0f} s", flush=True)  # fmt: skip
    report()


if __name__ == "__main__":
    main()
