"""Figure 1 of the paper: how much sooner does a network with ReLU reach the same training error?

    python scripts/figure_1.py data/clipart     # an hour or two; it goes on where it was interrupted
    python scripts/figure_1.py --report         # the table and the plot of what is measured

The network is `cifar`, four layers, without any regularisation, as in the paper. CIFAR-10 is in no package, so the
images are those of `scripts/colour.py clipart`, prepared at 32x32. The learning rate of each activation is that which
reaches the threshold soonest: it is doubled and halved until both neighbours are later. Rates that are close after one
seed (100) are tried with two more. Then come the seeds that are reported.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import jax

from alexnet_jax.ablate import ready, run_all
from alexnet_jax.ablation import rates, results
from alexnet_jax.ablation.table import interval
from alexnet_jax.config import Config, preset
from alexnet_jax.data.records import TRAIN, Records
from alexnet_jax.networks.drawing import INK, LANES, drawn
from alexnet_jax.training.fit import fit
from alexnet_jax.training.not_finite import NotFinite

ROOT = Path(__file__).parent.parent
OUT = ROOT / "experiments" / "results" / "figure_1"
ACTIVATIONS = {"relu": "-", "tanh": "--", "sigmoid": ":"}
"""and their lines: in the paper ReLU's is solid, and that of tanh dashed"""
THRESHOLD = 0.25
EPOCHS, CHECKED = 150, 10
"""a run ends after so many epochs at the latest; every so many it may end earlier"""
FIRST_RATE = 0.001
TRIALS, SEEDS = range(100, 103), range(5)


@dataclass(frozen=True)
class Task:
    activation: str
    rate: float
    seed: int
    data: Path
    run: Path

    @property
    def key(self) -> tuple[str, float, int]:
        return self.activation, self.rate, self.seed


@dataclass(frozen=True)
class Curve:
    """A run. `errors` are the training errors of its epochs, means over the batches as they were trained on."""

    activation: str
    rate: float
    seed: int
    errors: list[float]
    seconds: float
    device: str

    @property
    def epochs(self) -> float:
        """Until the training error is below the threshold, to a fraction of an epoch; infinite if it never is."""
        for epoch, error in enumerate(self.errors, 1):
            if error < THRESHOLD:
                before = self.errors[epoch - 2] if epoch > 1 else 1.0
                return epoch - (THRESHOLD - error) / (before - error)
        return math.inf


def config_of(task: Task) -> Config:
    base = preset("cifar")
    return replace(
        base,
        model=replace(base.model, activation=task.activation),
        optim=replace(base.optim, epochs=float(EPOCHS), rate=task.rate),
        data=replace(base.data, reshuffle=True),
        seed=task.seed,
    )


def measure(task: Task) -> Curve:
    """Trains a run, or continues it, until it is below the threshold."""
    began, config = time.perf_counter(), config_of(task)
    each = Records(task.data).examples(TRAIN) // config.optim.batch
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    curve = Curve(*task.key, [], 0.0, device)
    for epochs in range(CHECKED, EPOCHS + 1, CHECKED):
        try:
            fit(config, task.run, task.data, steps=epochs * each, progress=False, log_every=each)
        except NotFinite:
            break
        lines = map(json.loads, (task.run / "metrics.jsonl").read_text().splitlines())
        curve = replace(curve, errors=[line["train/top1_error"] for line in lines if "train/top1_error" in line])
        if curve.epochs < math.inf:
            break
    return replace(curve, seconds=round(time.perf_counter() - began, 1))


def known() -> dict[tuple[str, float, int], Curve]:
    return {(one.activation, one.rate, one.seed): one for one in results.read(OUT, Curve)}


def chosen(activation: str, there: dict[tuple[str, float, int], Curve]) -> tuple[float, list[tuple[float, int]]]:
    """The rate that is soonest at the threshold, and the (rate, seed) of the trials that are still to be run.

    Of rates that never come there the one that comes nearest is the best.
    """
    trials: dict[float, dict[int, float]] = {}
    for one in there.values():
        if one.activation == activation and one.seed in TRIALS:
            late = EPOCHS * (1 + min(one.errors, default=1))
            trials.setdefault(one.rate, {})[one.seed] = min(one.epochs, late)
    return rates.choose(FIRST_RATE, trials, TRIALS)


def missing(data: Path, runs: Path) -> list[Task]:
    """What is to be measured next: trials, then seed by seed."""
    there = known()
    best = {activation: chosen(activation, there) for activation in ACTIVATIONS}
    keys = [(activation, *trial) for activation, (_, untried) in best.items() for trial in untried] or [
        (activation, rate, seed) for seed in SEEDS for activation, (rate, _) in best.items()
    ]
    return [Task(*key, data, runs / "-".join(map(str, key))) for key in keys if key not in there]


def report() -> None:
    """The table as Markdown, and the plot."""
    there = known()
    runs: dict[str, list[Curve]] = {}
    for activation in ACTIVATIONS:
        rate, _ = chosen(activation, there)
        runs[activation] = [there[activation, rate, seed] for seed in SEEDS if (activation, rate, seed) in there]
    lines = [
        "| activation | learning rate | seeds | epochs to a training error of 25 % | times ReLU's | 95 % interval |",
        "|" + "---|" * 6,
    ]
    relu = {one.seed: one.epochs for one in runs["relu"]}
    for activation, found in runs.items():
        if not found:
            continue
        reached = [one.epochs for one in found if one.epochs < math.inf]
        epochs = f"{fmean(reached):.1f} ({min(reached):.1f} to {max(reached):.1f})" if reached else "never"
        epochs += f", {len(found) - len(reached)} never" if reached and len(reached) < len(found) else ""
        times, between = of_ratios([math.log(one.epochs / relu[one.seed]) for one in found if one.seed in relu])
        cells = (activation, f"{found[0].rate:g}", len(found), epochs, times, between)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    (OUT / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    with drawn(ROOT / "docs" / "figure_1.png", (6, 4)) as axes:
        for (activation, found), colour in zip(runs.items(), LANES, strict=False):
            if found:
                mean = [fmean(errors) for errors in zip(*(one.errors for one in found), strict=False)]
                axes.plot(range(1, len(mean) + 1), mean, ACTIVATIONS[activation], color=colour, label=activation)
        axes.axhline(THRESHOLD, color=INK, linewidth=0.8)
        axes.set(xlabel="epochs", ylabel="training error", ylim=(0, 1))
        axes.grid(color=INK, alpha=0.2)
        axes.legend(frameon=False)


def of_ratios(logs: Sequence[float]) -> tuple[str, str]:
    """The geometric mean of ratios with its interval, from their logarithms: the paired t-test's."""
    if not logs or not all(map(math.isfinite, logs)):
        return "", ""
    low, high, _ = interval(logs)
    between = "" if low is None or high is None or not any(logs) else f"{math.exp(low):.2f} to {math.exp(high):.2f}"
    return f"{math.exp(fmean(logs)):.2f}", between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="prepared images")
    parser.add_argument("--report", action="store_true", help="only write the table and the plot")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "figure_1", help="run directories")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on a share of the cores each")
    options = parser.parse_args()
    if not options.report and options.data is None:
        parser.error("give the folder of the prepared images, or --report")
    ready()
    OUT.mkdir(parents=True, exist_ok=True)
    while not options.report and (tasks := missing(options.data, options.runs)):
        for task, ended in run_all(tasks, options.jobs, measure):
            if isinstance(ended, Exception):
                raise ended
            results.append(OUT, ended)
            shutil.rmtree(task.run, ignore_errors=True)
            print(f"{task.activation} rate {task.rate:g} seed {task.seed}: {ended.epochs:.1f} epochs to 25 %, "
                  f"{ended.seconds:.0f} s", flush=True)  # fmt: skip
    report()


if __name__ == "__main__":
    main()
