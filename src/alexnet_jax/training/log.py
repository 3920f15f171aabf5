"""The output of a run: the table of its network, metrics.jsonl, TensorBoard and one progress bar."""

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich import progress
from rich.console import Console
from rich.table import Table
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from alexnet_jax.config import Model
from alexnet_jax.networks import functional
from alexnet_jax.training import processes
from alexnet_jax.training.not_finite import ADVICE, NotFinite

Batch = TypeVar("Batch")


def network_table(model: Model) -> Table:
    """The network, one row per layer."""
    table = Table("layer", "reads", "kernel", "output", "parameters", "multiply-adds", title="The network, all columns")
    rows = functional.describe(model)
    for row in rows:
        kernel, output = ("x".join(map(str, shape)) for shape in (row.kernel, row.output))
        table.add_row(row.layer, row.reads, kernel, output, f"{row.parameters:,}", f"{row.multiply_adds:,}")
    table.add_section()
    total = f"{sum(row.parameters for row in rows):,}", f"{sum(row.multiply_adds for row in rows):,}"
    table.add_row("all", "", "", "", *total)
    return table


def peak_memory() -> str:
    """The largest amount of memory used so far."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return f"{stats['peak_bytes_in_use'] / 2**30:.1f} GiB on a device"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB on the host"


class Log:
    """Appends to RUN/metrics.jsonl, one JSON object a line, and to RUN/tensorboard. Of several processes one writes.

    Lines after step `first`, and those of the validations `owed` at it, will be written again, so they are removed.
    """

    def __init__(self, run: Path, first: int, owed: Sequence[int] = ()) -> None:
        self._writes = processes.first()
        if not self._writes:
            return
        path = run / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if not _to_come(json.loads(line), first, owed)]
        rewritten = path.with_suffix(".rewritten")
        rewritten.write_text("".join(kept))
        rewritten.rename(path)
        self._file = path.open("a")
        # Not tensorboardX's SummaryWriter: it writes in a thread of its own, where a full disk goes unnoticed.
        (run / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(run / "tensorboard" / "events"))
        if first:  # TensorBoard drops what earlier files say about later steps
            self._board.write_event(
                Event(wall_time=time.time(), step=first + 1, session_log=SessionLog(status=SessionLog.START))
            )

    def write(self, step: int, **figures: Any) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step} | figures) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._board.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            with contextlib.closing(self._board):
                self._file.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl."""
    return [json.loads(line) for line in _whole_lines(run / "metrics.jsonl")]


def _to_come(line: dict[str, Any], first: int, owed: Sequence[int]) -> bool:
    """Whether a run that continues from step `first` will write this line again."""
    of_owed = any(f"{validation(crops)}/loss" in line for crops in owed)
    return line["step"] > first or (line["step"] == first and of_owed)


def validation(crops: int) -> str:
    """The name of a validation's figures."""
    return "validation/ten_crops" if crops == 10 else "validation"


def _whole_lines(path: Path) -> list[str]:
    """The complete lines of a log. A crash may have cut off the last one."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def errors(figures: dict[str, float]) -> str:
    """The figures of a validation, as text."""
    top1, top5, loss = (figures[name] for name in ("top1_error", "top5_error", "loss"))
    return f"top-1 error {top1:.4f}  top-5 error {top5:.4f}  loss {loss:.4f}"


class ProgressBar:
    """Steps done, time left, and the latest figures."""

    def __init__(self, console: Console, first: int, last: int) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[figures]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
        )
        self._task = self._bar.add_task("train", total=last, completed=first, figures="compiling")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: int, figures: str) -> None:
        self._bar.update(self._task, completed=step, figures=figures)

    def print(self, line: str) -> None:
        self._bar.console.print(line, soft_wrap=True)


class Watch:
    """Reads each step's figures one step late, so that the device always has work.

    `window` holds sums since the last line of the log; it is part of every checkpoint.
    """

    def __init__(
        self, window: dict[str, float], log: Log, bar: ProgressBar, batch: int, examples: int, log_every: int
    ) -> None:
        self._window, self._log, self._bar = window, log, bar
        self._batch, self._examples, self._log_every = batch, examples, log_every
        self._pending: tuple[int, Any, float | None] | None = None
        self._shown = ""
        self._restart()

    def _restart(self) -> None:
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def next_of(self, batches: Iterator[Batch]) -> Batch:
        """The next batch. The share of the time spent waiting for batches is logged as `data_wait`.

        The device may still be busy with the step before, so this is an upper bound on what the data costs.
        """
        began = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - began
        return batch

    def _epoch(self, done: int) -> float:
        return done * self._batch / self._examples

    def follow(self, done: int, metrics: Any, rate: float | None) -> None:
        """Records that step number `done` has been dispatched, and settles the one before it.

        `rate` is the learning rate; None if an optimiser of the user's own keeps it to itself.
        """
        self.settle()
        self._pending = done, metrics, rate

    def settle(self) -> None:
        """Waits for the last step and reads its figures. This is the only place where the loop waits for the device.

        Raises NotFinite if they are not.
        """
        if self._pending is None:
            return
        (done, metrics, rate), self._pending = self._pending, None
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(map(math.isfinite, figures.values())):
            raise NotFinite(
                f"the loss is no longer finite at step {done} (loss {figures['loss']:g}, size of the update "
                f"{figures['update_norm']:g})",
                done,
            )
        self._steps += 1
        for name, value in (figures | {"steps": 1}).items():
            self._window[name] = self._window.get(name, 0.0) + value
        self._bar.show(done, self._shown or f"loss {figures['loss']:.3f}  error {figures['top1_error']:.3f}")
        if done % self._log_every:
            return
        means = {name: self._window[name] / self._window["steps"] for name in ("loss", "top1_error")}
        elapsed = time.perf_counter() - self._since
        speed, wait = self._steps * self._batch / elapsed, self._waited / elapsed
        self._log.write(
            done,
            epoch=self._epoch(done),
            **{f"train/{name}": value for name, value in means.items()},
            **({} if rate is None else {"learning_rate": rate}),
            images_per_second=speed,
            data_wait=wait,
        )
        data = f" ({wait:.0%} waiting for data)" if wait > 0.05 else ""
        self._shown = f"{speed:.0f} images/s{data}  loss {means['loss']:.3f}  error {means['top1_error']:.3f}"
        self._window.clear()
        self._restart()

    def validated(self, done: int, figures: dict[str, float], crops: int) -> None:
        """Logs the figures of a validation, and leaves its time out of images per second."""
        if not math.isfinite(figures["loss"]):
            raise NotFinite(f"the validation loss is not finite after step {done}; {ADVICE}")
        self._log.write(
            done, epoch=self._epoch(done), **{f"{validation(crops)}/{key}": value for key, value in figures.items()}
        )
        kind = "validation, ten crops" if crops == 10 else "validation"
        self._bar.print(f"epoch {self._epoch(done):6.2f}  step {done:6d}  {kind}: {errors(figures)}")
        self._restart()
