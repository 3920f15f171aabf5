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
from alexnet_jax.ablation.table import AVERAGES
from alexnet_jax.config import BadInput, Config, diff
from alexnet_jax.data.records import EMBEDDED, Records
from alexnet_jax.training.fit import fit_classes
from alexnet_jax.training.meter import check_fit


@dataclass(frozen=True)
class Average:
    """Networks whose probabilities are averaged."""

    task: Task
    """its seed is the first of theirs"""
    members: list[Task]


@dataclass(frozen=True)
class Plan:
    """The runs of an ablation."""

    tasks: list[Task]
    """seed by seed and the baseline first, so that an ablation that ends early still has pairs"""
    averages: list[Average]
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
        init = Path(experiment.init.format(seed=seed)) if experiment.init else None
        run = f"{digest(config)}-{key.steps}-{seed}" + (f"-{experiment.name}" if init else "")
        return Task(key, config, runs / key.data / run, data, init)

    tasks = []
    for seed in seeds:
        for experiment in (baseline(), *experiments):
            try:
                one = task(experiment, seed)
                if experiment.name != BASELINE and not one.init and not diff(replace(base, seed=seed), one.config):
                    idle[experiment.name] = None
                else:
                    tasks.append(one)
            except Exception as error:  # change() is the user's code
                if experiment.name == BASELINE:
                    raise
                said = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
                refused[experiment.name] = said
    by_run = {(task.key.experiment, task.key.seed): task for task in tasks}
    averages = []
    for name, kinds in AVERAGES.items():
        for seed in seeds[:: kinds[BASELINE]] if seeds.start % kinds[BASELINE] == 0 else ():
            runs_of = [(kind, one) for kind, count in kinds.items() for one in range(seed, seed + count)]
            if all(run in by_run for run in runs_of):
                averages.append(Average(task(baseline(), seed, name), [by_run[run] for run in runs_of]))
    return Plan(tasks, averages, refused, list(idle))


def known(asked: Plan, out: Path) -> results.Known:
    """What is measured already of a plan."""
    tasks = [*asked.tasks, *(average.task for average in asked.averages)]
    return results.known(results.read(out, Result), {task.key: digest(task.config) for task in tasks})


def finish(asked: Plan, out: Path, *, keep: bool) -> list[str]:
    """Measures the averages whose networks are trained, and removes the runs that nobody needs any more.

    Returns a sentence for each average whose networks are not all on this machine.
    """
    lost = []
    measured = known(asked, out).results
    waiting: set[Path] = set()
    for average in asked.averages:
        key, members = average.task.key, [member.run for member in average.members]
        if key in measured:
            continue
        if not all(member.key in measured for member in average.members):
            waiting.update(members)
        elif all(member.is_dir() for member in members):
            results.append(out, measure_runs(average.task, members, time.perf_counter()))
        else:
            lost.append(f"{key.experiment}, seed {key.seed} on: not all of the trained networks are on this machine.")
    for task in asked.tasks:
        if not keep and task.key in measured and task.run not in waiting:
            shutil.rmtree(task.run, ignore_errors=True)
    return lost


def asked_results(asked: Plan, out: Path) -> list[Result]:
    """The results for the table."""
    return list(known(asked, out).results.values())
