"""What a run logs: the lines of metrics.jsonl and the figures on the progress bar."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from alexnet_jax.config import BadInput
from alexnet_jax.training import log
from alexnet_jax.training.log import Log, ProgressBar, Watch, read_metrics


class Board:
    """Replaces TensorBoard's writer."""

    def __init__(self, path: str) -> None:
        self.purge_step: int | None = None

    def write_event(self, event: Any) -> None:
        if event.HasField("session_log"):
            self.purge_step = event.step

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_lines_after_the_step_that_a_run_continues_from_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a last line that a crash has cut off, with or without its step."""
    boards = []
    monkeypatch.setattr(log, "EventsWriter", lambda path: boards.append(Board(path)) or boards[-1])
    lines = [json.dumps({"step": step, "train/loss": 1.0}) + "\n" for step in (2, 4, 6, 8)]
    for cut in ('{"step": 4, "train/l', '{"step": 4}'):
        (tmp_path / "metrics.jsonl").write_text("".join(lines) + cut)
        with Log(tmp_path, 4) as after:
            after.write(6, **{"train/loss": 2.0})
            written = read_metrics(tmp_path)
        assert [(line["step"], line["train/loss"]) for line in written] == [(2, 1.0), (4, 1.0), (6, 2.0)], (
            "a line is written at once"
        )
    Log(tmp_path, 0)
    assert read_metrics(tmp_path) == []
    assert [board.purge_step for board in boards] == [5, 5, None], "TensorBoard drops the same steps"


class Bar(ProgressBar):
    """A progress bar that records what it is told."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True), 0, 9)
        self.shown: list[tuple[int, str]] = []

    def show(self, step: int, figures: str) -> None:
        self.shown.append((step, figures))


def figures(loss: float, error: float = 0.5, update: float = 0.1) -> dict[str, float]:
    return {"loss": loss, "top1_error": error, "update_norm": update}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test can advance."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_line_holds_means_since_the_last_line_and_the_speed_without_validation(
    tmp_path: Path, clock: list[float]
) -> None:
    """Batches of 8 take two seconds each. The validation between the lines takes an hour."""
    with Log(tmp_path, 0) as here, Bar() as bar:
        watch = Watch({}, here, bar, batch=8, examples=32, log_every=2)
        for step, loss in enumerate((3.0, 2.0, 1.0, 0.5), 1):
            clock[0] += 2
            watch.follow(step, figures(loss, error=loss / 4), rate=0.1 * step)
            watch.settle()
            if step == 2:
                clock[0] += 3600
                watch.validated(2, {"loss": 1.5, "top1_error": 0.5, "top5_error": 0.1}, crops=1)
    first, validation, second = read_metrics(tmp_path)
    assert first == {
        "step": 2, "epoch": 0.5, "train/loss": 2.5, "train/top1_error": 0.625, "learning_rate": 0.2,
        "images_per_second": 4.0, "data_wait": 0.0,
    }  # fmt: skip
    assert validation["validation/loss"] == 1.5
    assert (second["train/loss"], second["images_per_second"], second["learning_rate"]) == (0.75, 4.0, 0.4)
    assert bar.shown == [
        (1, "loss 3.000  error 0.750"),
        (2, "loss 2.000  error 0.500"),
        (3, "4 images/s  loss 2.500  error 0.625"),
        (4, "4 images/s  loss 2.500  error 0.625"),
    ]


def test_a_line_that_began_before_an_interruption_holds_all_its_steps(tmp_path: Path) -> None:
    """Two steps from the checkpoint and a new one, even though a line is now due after every step."""
    window = {"loss": 7.0, "top1_error": 1.5, "update_norm": 0.2, "steps": 2.0}
    with Log(tmp_path, 2) as here, Bar() as bar:
        watch = Watch(window, here, bar, batch=8, examples=32, log_every=1)
        watch.follow(3, figures(2.0), 0.1)
        watch.settle()
    (line,) = read_metrics(tmp_path)
    assert (line["train/loss"], line["train/top1_error"]) == pytest.approx((3.0, 2 / 3))


@pytest.mark.parametrize("bad", [figures(float("nan")), figures(float("inf")), figures(1.0, update=float("inf"))])
def test_a_step_that_is_not_finite_ends_the_run_before_it_is_logged(tmp_path: Path, bad: dict[str, float]) -> None:
    """The loss is computed before the update, so the update can be infinite when the loss is not."""
    with Log(tmp_path, 0) as here, Bar() as bar:
        watch = Watch({}, here, bar, batch=8, examples=32, log_every=1)
        watch.follow(1, bad, 0.1)
        with pytest.raises(BadInput, match="the loss is no longer finite at step 1"):
            watch.settle()
        with pytest.raises(BadInput, match="the validation loss is not finite after step 1"):
            watch.validated(1, {"loss": float("nan"), "top1_error": 0.5, "top5_error": 0.1}, crops=1)
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(("owed", "kept"), [([], 3), ([10], 2), ([1, 10], 1), ([1], 2)])
def test_lines_of_validations_that_a_signal_put_off_are_removed(tmp_path: Path, owed: list[int], kept: int) -> None:
    """They may be there if the run was killed before its next checkpoint."""
    names = "train/loss", "validation/loss", "validation/ten_crops/loss"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": 4, name: 1.0}) + "\n" for name in names))
    Log(tmp_path, 4, owed)
    left = read_metrics(tmp_path)
    assert len(left) == kept
    assert "train/loss" in left[0]


def test_tensorboards_file_holds_every_figure(tmp_path: Path) -> None:
    """Read back record by record: the length in 8 bytes, their checksum in 4, the event, its checksum in 4."""
    with Log(tmp_path, 2) as here:
        here.write(3, **{"train/loss": 0.5, "epoch": 1.5})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[12 + size + 4 :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (3, 1), "what earlier files hold from step 3 on is void"
    values = {each.summary.value[0].tag: (each.step, each.summary.value[0].simple_value) for each in events[2:]}
    assert values == {"train/loss": (3, 0.5), "epoch": (3, 1.5)}
