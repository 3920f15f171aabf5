"""What is asked for: which runs, in which order, and what of them is measured already."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_jax.ablation import results
from alexnet_jax.ablation.experiments import BASELINE, Experiment, baseline
from alexnet_jax.ablation.measure import Task, key_of, measure_runs
from alexnet_jax.ablation.results import Result, digest
from alexnet_jax.ablation.table import FIVE, MEMBERS
from alexnet_jax.config import BadInput, Config, diff
from alexnet_jax.data.records import EMBEDDED, Records
from alexnet_jax.training.fit import fit_classes
from alexnet_jax.training.meter import check_fit


@dataclass(frozen=True)
class Plan:
    """The runs of an ablation."""

    tasks: list[Task]
    """seed by seed and the baseline first, so that an ablation that ends early still has pairs"""
    fives: list[Task]
    """the baseline's networks, five by five; the seed is that of the first"""
    refused: dict[str, str]
    """experiments that this base or this data cannot have, and why"""
    idle: list[str]
    """experiments that change nothing of this base"""


def plan(
    experiments: Sequence[Experiment], base: Config, seeds: range, data: Path | None, steps: int | None, runs: Path
) -> Plan:
    """Raises BadInput if the data is missing or the baseline does not fit it."""
    records = Records(data or EMBEDDED)
    refused: dict[str, str] = {}
    idle: dict[str, None] = {}

    def task(experiment: Experiment, seed: int, name: str = "") -> Task:
        config = experiment.config(base, seed)
        check_fit(fit_classes(config, records), records)
        key = key_of(name or experiment.name, config, records, steps)
        run = runs / key.data / f"{digest(config)}-{key.steps}-{seed}"
        return Task(key, config, run, data)

    tasks = []
    for seed in seeds:
        for experiment in (baseline(), *experiments):
            try:
                one = task(experiment, seed)
                if experiment.name != BASELINE and not diff(replace(base, seed=seed), one.config):
                    idle[experiment.name] = None
                else:
                    tasks.append(one)
            except Exception as error:  # change() is the user's code
                if experiment.name == BASELINE:
                    raise
                said = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
                refused[experiment.name] = said
    firsts = [seed for seed in seeds if seed % MEMBERS == 0 and seed + MEMBERS - 1 in seeds]
    return Plan(tasks, [task(baseline(), seed, FIVE) for seed in firsts], refused, list(idle))


def known(asked: Plan, out: Path) -> results.Known:
    """What is measured already of a plan."""
    return results.known(results.read(out), {task.key: digest(task.config) for task in (*asked.tasks, *asked.fives)})


def finish(asked: Plan, out: Path, *, keep: bool) -> list[str]:
    """Measures the averages of five networks that can be measured, and removes the runs that nobody needs any more.

    Returns a sentence for each five whose networks are not all on this machine.
    """
    lost = []
    measured = known(asked, out).results
    runs = {task.key.seed: task.run for task in asked.tasks if task.key.experiment == BASELINE}
    waiting: set[Path] = set()
    for five in asked.fives:
        seeds = range(five.key.seed, five.key.seed + MEMBERS)
        members = [runs[seed] for seed in seeds]
        done = [task.key for task in asked.tasks if task.run in members and task.key in measured]
        if five.key in measured:
            continue
        if len(done) < MEMBERS:
            waiting.update(members)
        elif all(member.is_dir() for member in members):
            results.append(out, measure_runs(five, members, time.perf_counter()))
        else:
            lost.append(
                f"{FIVE}, seeds {seeds[0]} to {seeds[-1]}: not all of the trained networks are on this machine."
            )
    for task in asked.tasks:
        if not keep and task.key in measured and task.run not in waiting:
            shutil.rmtree(task.run, ignore_errors=True)
    return lost


def asked_results(asked: Plan, out: Path) -> list[Result]:
    """The results for the table."""
    return list(known(asked, out).results.values())
