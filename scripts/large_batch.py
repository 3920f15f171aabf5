"""From which batch on does the error rise? Momentum and LARS on Fashion-MNIST, with equal epochs.

    python scripts/large_batch.py              # hours; it goes on where it was interrupted
    python scripts/large_batch.py --report     # the table and the plot of what is measured

The network is `fashion`, for 12 epochs of the embedded 10,000 images, with a warm-up of two epochs and then a fall to 0
along half a wave. The learning rate of each rule and batch is that with the lowest error on the training images: it is
doubled and halved until both neighbours are worse. So no test image decides. Rates that are close after one seed (100)
are tried with two more. Then come the seeds that are reported.
"""

import argparse
import math
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from alexnet_jax.ablate import ready, run_all
from alexnet_jax.ablation import rates, results
from alexnet_jax.ablation.measure import Task, key_of, measure
from alexnet_jax.ablation.results import Result, digest
from alexnet_jax.config import Config, Schedule, preset
from alexnet_jax.data.records import EMBEDDED, Records
from alexnet_jax.networks.drawing import INK, LANES, drawn
from alexnet_jax.training.not_finite import NotFinite

ROOT = Path(__file__).parent.parent
OUT = ROOT / "experiments" / "results" / "large_batch"
BATCHES = (64, 256, 1024, 4096, 8192)
RULES: tuple[Literal["sgd", "lars"], ...] = ("sgd", "lars")
RATES = {"sgd": 0.04, "lars": 4.0}
"""where the search for the learning rate begins, for a batch of 64"""
USELESS = 0.7
"""a training error from which on a trial counts as diverged"""
TRIALS, SEEDS = range(100, 103), range(5)
NAMES = {"sgd": "momentum", "lars": "LARS"}


def config_of(rule: Literal["sgd", "lars"], batch: int, rate: float, seed: int) -> Config:
    base = preset("fashion")
    schedule = Schedule("cosine", warmup=2.0)
    optim = replace(base.optim, rule=rule, batch=batch, rate=rate, epochs=12.0, schedule=schedule, bias_schedule=None)
    return replace(base, optim=optim, seed=seed)


def first_rate(rule: str, batch: int) -> float:
    """Where the search begins: at the root of the batch times what it is for a batch of 64."""
    return RATES[rule] * math.sqrt(batch / 64)


def task_of(rule: Literal["sgd", "lars"], batch: int, rate: float, seed: int, runs: Path) -> Task:
    config = config_of(rule, batch, rate, seed)
    key = key_of(f"{rule}_{batch}", config, Records(EMBEDDED), None)
    return Task(key, config, runs / f"{digest(config)}-{seed}", None)


Runs = dict[tuple[str, int, float, int], Result]
"""{(rule, batch, rate, seed): result} of what is measured"""


def known() -> Runs:
    found = {(result.config, result.seed): result for result in results.read(OUT, Result)} if OUT.is_dir() else {}
    return {
        (rule, batch, rate, seed): found[digest(config_of(rule, batch, rate, seed)), seed]
        for rule in RULES
        for batch in BATCHES
        for rate in rates.candidates(first_rate(rule, batch))
        for seed in (*TRIALS, *SEEDS)
        if (digest(config_of(rule, batch, rate, seed)), seed) in found
    }


def chosen(rule: str, batch: int, there: Runs) -> tuple[float, list[tuple[float, int]]]:
    """The best rate so far by the training error, and the (rate, seed) of the trials that are still to be run."""
    trials: dict[float, dict[int, float]] = {}
    for (*of, rate, seed), one in there.items():
        if of == [rule, batch] and seed in TRIALS:
            trials.setdefault(rate, {})[seed] = one.train_error
    return rates.choose(first_rate(rule, batch), trials, TRIALS, USELESS)


def missing(runs: Path) -> list[Task]:
    """What is to be measured next: trials, then seed by seed, so that an early end leaves whole curves."""
    there = known()
    best = {(rule, batch): chosen(rule, batch, there) for rule in RULES for batch in BATCHES}
    trials = [
        task_of(rule, batch, rate, seed, runs) for (rule, batch), (_, untried) in best.items() for rate, seed in untried
    ]
    return trials or [
        task_of(rule, batch, rate, seed, runs)
        for seed in SEEDS
        for (rule, batch), (rate, _) in best.items()
        if (rule, batch, rate, seed) not in there
    ]


def report() -> None:
    """The table as Markdown, and the plot."""
    there = known()
    lines = ["| batch | steps | rule | rate | seeds | top-1 error, ten crops | training error |", "|" + "---|" * 7]
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for batch in BATCHES:
        for rule in RULES:
            rate, untried = chosen(rule, batch, there)
            if untried:
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
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on a share of the cores each")
    options = parser.parse_args()
    ready()
    while not options.report and (tasks := missing(options.runs)):
        for task, ended in run_all(tasks, options.jobs, measure):
            if isinstance(ended, NotFinite):  # a result, without figures
                nan = math.nan
                ended = Result(*task.key, digest(task.config), nan, nan, nan, nan, nan, nan, nan, {}, "diverged")
            elif isinstance(ended, Exception):
                raise ended
            results.append(OUT, ended)
            shutil.rmtree(task.run, ignore_errors=True)
            rate, error = task.config.optim.rate, ended.top1_error
            print(f"{task.key.experiment} rate {rate:g} seed {task.key.seed}: top-1 error {error:.4f}, training "
                  f"{ended.train_error:.4f}, {ended.seconds:.0f} s", flush=True)  # fmt: skip
    report()


if __name__ == "__main__":
    main()
