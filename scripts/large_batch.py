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
from alexnet_jax.ablation.table import interval
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


def reported(rule: str, batch: int, there: Runs) -> list[Result]:
    """The runs with the best rate that ended, in the order of their seeds; none while rates are still to be tried."""
    rate, untried = chosen(rule, batch, there)
    keys = [(rule, batch, rate, seed) for seed in SEEDS]
    return [] if untried else [there[key] for key in keys if key in there and not math.isnan(there[key].top1_error)]


def report() -> None:
    """The table as Markdown, and the plot."""
    there = known()
    lines = [
        "| batch | steps | n | momentum | LARS | LARS minus momentum | training errors | rates |",
        "|" + "---|" * 8,
    ]
    curves: dict[str, dict[int, list[float]]] = {rule: {} for rule in RULES}
    for batch in BATCHES:
        both = [reported(rule, batch, there) for rule in RULES]
        seeds = sorted(set.intersection(*({one.seed for one in runs} for runs in both)))
        if len(seeds) < 2:
            continue
        momentum, lars = ([one for one in runs if one.seed in seeds] for runs in both)
        errors = [[100 * one.top1_error for one in runs] for runs in (momentum, lars)]
        for rule, of_rule in zip(RULES, errors, strict=True):
            curves[rule][batch] = of_rule
        differences = [changed - one for one, changed in zip(*errors, strict=True)]
        low, high, _ = interval(differences)
        cells = (
            f"{batch:,}", f"{momentum[0].steps:,}", len(seeds),
            *(f"{fmean(of_rule):.1f} ± {stdev(of_rule):.1f}" for of_rule in errors),
            f"{fmean(differences):+.1f} ({low:+.1f} to {high:+.1f})",
            ", ".join(f"{100 * fmean(one.train_error for one in runs):.1f}" for runs in (momentum, lars)),
            ", ".join(f"{chosen(rule, batch, there)[0]:g}" for rule in RULES),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    (OUT / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    with drawn(ROOT / "docs" / "large_batch.png", (7, 4)) as axes:
        for (name, errors_at), marker, colour in zip(curves.items(), "os", LANES, strict=False):
            means = list(map(fmean, errors_at.values()))
            axes.plot(list(errors_at), means, color=colour, label=f"{NAMES[name]}: mean, and each seed")
            for batch, of_rule in errors_at.items():
                axes.plot([batch] * len(of_rule), of_rule, marker, color=colour, alpha=0.6, markersize=5)
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
