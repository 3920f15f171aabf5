"""python -m alexnet_jax.ablate [FILES]: measures experiments against a baseline over seeds, and writes the table."""

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from rich import progress
from rich.console import Console

from alexnet_jax import command_line
from alexnet_jax.ablation import experiments, plan, plots, results, table
from alexnet_jax.ablation.measure import measure
from alexnet_jax.ablation.results import Result
from alexnet_jax.config import BadInput
from alexnet_jax.data.records import EMBEDDED, TRAIN, Records


@dataclass(frozen=True)
class Options:
    """Measures experiments against a baseline, over the same seeds, and writes the table.

    What is measured already is not run again, and a run that was interrupted continues, so the same command goes on
    until everything is measured. An experiment is a Python file with a function change(base) -> Config.
    """

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """experiments; by default all of experiments/"""
    base: str = "fashion"
    """the baseline: a preset, a run directory, or a Python file that defines CONFIG"""
    seeds: str = "5"
    """how many, from 0 on; or FIRST-LAST"""
    data: Path | None = None
    """prepared images; by default 12,000 of Fashion-MNIST"""
    steps: int | None = None
    """end every run after this many; schedules stay those of the complete run"""
    out: Path = Path("experiments/results")
    """results as JSON lines, and the table as Markdown, JSON and a plot"""
    jobs: int = 1
    """runs at a time on this machine, in a process each, on its share of the CPU's cores"""
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/ablate")
    """run directories, which are removed once they are measured"""
    keep: bool = False
    """do not remove them"""


def seeds_of(text: str) -> range:
    """The seeds of `--seeds N` or `--seeds FIRST-LAST`. Raises BadInput."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    seeds = range(0)
    if found:
        seeds = range(int(found[1]), int(found[2]) + 1) if found[2] else range(int(found[1]))
    if not seeds:
        raise BadInput(f"--seeds is {text}; give how many, from 0 on, or FIRST-LAST, as in 5-9")
    return seeds


A_TASK = TypeVar("A_TASK")
ITS_RESULT = TypeVar("ITS_RESULT")


def run_all(
    tasks: Sequence[A_TASK], jobs: int, measure: Callable[[A_TASK], ITS_RESULT]
) -> Iterator[tuple[A_TASK, ITS_RESULT | Exception]]:
    """Each run with its result, or with what went wrong, in the order in which they end."""
    if jobs == 1 or len(tasks) == 1:
        for task in tasks:
            try:
                yield task, measure(task)
            except Exception as wrong:  # named, and the others go on
                yield task, wrong
        return
    # Spawned, as a process with JAX's threads must not be forked. A process for each run, whose memory ends with it.
    context = multiprocessing.get_context("spawn")
    shares: Queue[set[int]] = context.Queue()
    for share in shares_of_cores(jobs):
        shares.put(share)
    with ProcessPoolExecutor(jobs, context, _begin, (shares,), max_tasks_per_child=1) as pool:
        futures: dict[Future[ITS_RESULT], A_TASK] = {pool.submit(measure, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise BadInput(
                        "a run was killed, perhaps for lack of memory; give fewer --jobs, and the same command goes on"
                    )
                if error is not None and not isinstance(error, Exception):  # interrupted
                    raise error
                yield futures[future], error or future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def shares_of_cores(jobs: int) -> list[set[int]]:
    """The cores of each job. Two runs on a core each take a third less time than one after the other on both cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # macOS has none
    return [set(cores[job::jobs]) or set(cores) for job in range(jobs)]


def _begin(shares: "Queue[set[int]]") -> None:
    """Runs in a process of `--jobs` before its run."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = shares.get()
    Finalize(None, shares.put, (share,), exitpriority=0)
    if share:
        os.sched_setaffinity(0, share)
    ready("1,1" if len(share) == 1 else "auto")


def _end_with_parent() -> None:
    """Lets the run save and end when the command is killed. The process would wait for another run forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)
    os._exit(1)


def ready(mesh: str = "auto") -> None:
    """Makes a process ready for runs, as those of `train` are."""
    command_line.keep_compiled()
    command_line.keep_memory()
    command_line.make_cpu_devices(mesh)


def write(out: Path, found: Sequence[Result], rows: Sequence[table.Row], sent: Mapping[str, float], about: str) -> None:
    """The table as Markdown, JSON and plots."""
    (out / "table.md").write_text(table.markdown(rows, found, about))
    lines = [asdict(row) | {"verdict": row.verdict} for row in rows]
    (out / "table.json").write_text(json.dumps(lines, indent=1) + "\n")
    plots.forest(out / "forest.svg", rows, about)
    if sum(row.experiment in sent for row in rows) > 1:
        plots.exchange(out / "exchange.svg", rows, sent, about)


def ablate() -> None:
    options = command_line.parse(Options)
    if options.jobs < 1 or (options.steps is not None and options.steps < 1):
        raise BadInput("--jobs and --steps are at least 1")
    ready()
    base, seeds = command_line.named_config(options.base), seeds_of(options.seeds)
    files = options.files or sorted(Path("experiments").glob("*.py"))
    if not files:
        raise BadInput("there is no folder experiments here; name the files of experiments")
    all_of_them = [experiments.load(path) for path in files]
    asked = plan.plan(all_of_them, base, seeds, options.data, options.steps, options.runs)
    known = plan.known(asked, options.out)
    missing = [task for task in asked.tasks if task.key not in known.results]
    console = Console(highlight=False, soft_wrap=True)
    failed = dict(asked.refused)
    for stale in known.stale:
        console.print(f"{stale.experiment} seed {stale.seed} was measured with another config; it is measured again.")
    for name in asked.idle:
        console.print(f"{name} changes nothing of {options.base}, and is left out.")
    console.print(f"{len(asked.tasks)} runs, {len(asked.tasks) - len(missing)} of them measured already.")
    bar = progress.Progress(
        progress.TextColumn("runs"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
        console=console,
        speed_estimate_period=7 * 24 * 3600,  # a run takes minutes
    )
    try:
        with bar:
            shown = bar.add_task("runs", total=len(missing))
            for task, ended in run_all(missing, options.jobs, measure):
                name = f"{task.key.experiment} seed {task.key.seed}"
                if isinstance(ended, Result):
                    results.append(options.out, ended)
                    bar.print(f"{name}: top-1 error {ended.top1_error:.4f}, {ended.seconds:.0f} s")
                else:
                    failed[name] = str(ended) if isinstance(ended, BadInput) else f"{type(ended).__name__}: {ended}"
                    bar.print(f"{name}: {failed[name]}")
                plan.finish(asked, options.out, keep=options.keep)
                bar.advance(shown)
    except KeyboardInterrupt:
        console.print("Interrupted. What is measured is kept, and the same command goes on.")
        sys.exit(128 + signal.SIGINT)
    for said in plan.finish(asked, options.out, keep=options.keep):
        console.print(said)
    found = plan.asked_results(asked, options.out)
    if found:
        records = Records(options.data or EMBEDDED)
        about = f"{Path(options.base).stem}, {records.examples(TRAIN):,} images, {found[0].steps:,} steps."
        figures = {one.name: (one.paper, one.logs) for one in all_of_them}
        rows = table.rows(found, figures | table.OF_THE_BASELINE)
        sent = {task.key.experiment: plots.bytes_exchanged(base, task.config) for task in asked.tasks if not task.init}
        write(options.out, found, rows, {name: count for name, count in sent.items() if count is not None}, about)
        console.print(f"\n{options.out / 'table.md'}:\n\n{table.markdown(rows, found, about)}", markup=False)
    for name, why in failed.items():
        print(f"{name} failed: {why}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    command_line.main(ablate)
