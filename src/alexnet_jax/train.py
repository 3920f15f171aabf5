"""python -m alexnet_jax.train [PRESET or FILE.py]: trains a network, or goes on where it was interrupted."""

import math
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from alexnet_jax import command_line, convert
from alexnet_jax.config import BadInput, Config, Model, diff, from_json, to_json
from alexnet_jax.config.presets import preset
from alexnet_jax.data import augment
from alexnet_jax.data.pipeline import training_batches
from alexnet_jax.data.records import EMBEDDED, TRAIN, Records
from alexnet_jax.evaluate import Meter, check_fit
from alexnet_jax.networks import columns, functional
from alexnet_jax.training import checkpoint
from alexnet_jax.training.log import Log, ProgressBar, Watch
from alexnet_jax.training.optimiser import check_layers, rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import State, make_train_step, new_state
from alexnet_jax.training.transfer import transfer

UNFINISHED = "config.incomplete"


@dataclass(frozen=True)
class Options(command_line.Recipe):
    """Trains a network, or goes on where the same command was interrupted."""

    workdir: Path | None = None
    """run directory; by default runs/NAME"""
    init: Path | None = None
    """run, checkpoint or file of weights to start from: the layers that fit are taken, the others are new"""
    steps: int | None = None
    """stop after so many steps in all; the schedules stay those of the whole run"""
    mesh: str = "auto"
    """sizes of the data and the column axis, D,C"""
    workers: int = 0
    """processes that read data ahead; 0 reads in threads"""
    log_every: int = 10
    """steps to a line of metrics.jsonl"""
    save_minutes: float = 2.0
    """time between checkpoints"""


def parse_options() -> tuple[Options, Config]:
    options, config = command_line.parse_recipe(Options)
    if (options.steps is not None and options.steps < 1) or options.log_every < 1:
        raise BadInput("--steps and --log-every are at least 1")
    if min(options.save_minutes, options.workers) < 0:
        raise BadInput("--save-minutes and --workers are at least 0")
    return options, config


def fit_classes(config: Config, records: Records) -> Config:
    """The config with as many classes as the data has, unless the user asked for another number: then BadInput."""
    there, asked = len(records.classes), config.model.classes
    if there == asked:
        return config
    if asked != preset(config.preset).model.classes:
        option = f"--model.{config.model.logits}.units"
        raise BadInput(f"{records.directory} has {there} classes and {option} asks for {asked}; leave it out")
    return replace(config, model=config.model.with_classes(there))


def find_run(run: Path, config: Config, fingerprint: str) -> checkpoint.Checkpoint | None:
    """What to go on from. Raises BadInput where the run directory belongs to something else."""
    path = run / "config.json"
    if path.exists():
        other = diff(from_json(path.read_text()), config)
        if other:
            fields = ", ".join(f"{name} ({there} there, {here} now)" for name, (there, here) in other.items())
            raise BadInput(f"{run} is a run with another config: {fields}; give another --workdir")
    elif run.exists() and any(child != run / UNFINISHED for child in run.iterdir()):
        raise BadInput(f"{run} is not empty and not a run; give another --workdir")
    latest = run / "checkpoints" / checkpoint.LATEST
    if not latest.is_dir() or not any(child.name.isdigit() for child in latest.iterdir()):
        return None
    found = checkpoint.find(run)
    if found.data["fingerprint"] != fingerprint:
        if found.data["fingerprint"] is None:
            raise BadInput(f"{run} holds weights from elsewhere; give another --workdir and --init {run}")
        data = found.data["path"] or "the embedded set"
        raise BadInput(f"{run} was trained on other data ({data}); give that --data")
    return found


def make_run(run: Path, config: Config) -> None:
    """The run directory with its config."""
    run.mkdir(parents=True, exist_ok=True)
    (run / UNFINISHED).write_text(to_json(config))
    (run / UNFINISHED).rename(run / "config.json")


def network_table(model: Model) -> Table:
    """The network, a row a layer."""
    table = Table("layer", "reads", "kernel", "leaves", "parameters", "multiply-adds", title="The network, all columns")
    rows = functional.describe(model)
    for row in rows:
        kernel, leaves = ("x".join(map(str, shape)) for shape in (row.kernel, row.leaves))
        table.add_row(row.layer, row.reads, kernel, leaves, f"{row.parameters:,}", f"{row.multiply_adds:,}")
    table.add_section()
    total = f"{sum(row.parameters for row in rows):,}", f"{sum(row.multiply_adds for row in rows):,}"
    table.add_row("all", "", "", "", *total)
    return table


def augmentation(config: Config, records: Records, mesh: Mesh) -> Callable[[Array, Array, Array], Array]:
    """augment(images uint8 [B, H, W, C], key, noise) -> float32 [B, h, w, C], each device its own pictures."""

    def per_device(images_BHWC: Array, index_B: Array, key: Array, noise: Array) -> Array:
        size = config.model.image_size
        return augment.training_view(images_BHWC, index_B, key, records.statistics, noise, data=config.data, size=size)

    return columns.on_pictures(per_device, mesh)


def fresh_state(config: Config, key: Array, mesh: Mesh) -> State:
    """The state before the first step, born on the mesh, so that the step compiles once."""

    def create(key: Array) -> State:
        return new_state(functional.init(config.model, key), config.optim)

    return jax.jit(create, out_shardings=columns.shardings(jax.eval_shape(create, key), mesh))(key)


def start_from(path: Path, config: Config, records: Records, state: State, console: Console) -> State:
    """The state with the weights of a run, a checkpoint or another program's file, as far as its layers fit.

    Raises BadInput where none does.
    """
    there = convert.source(path)
    same_count = len(there.classes) == len(records.classes)
    same_classes = there.classes == records.classes or (there.foreign and same_count)
    params, new = transfer(state.params, there.params, config.model.logits, same_classes)
    if len(new) == len(params):
        reasons = ", ".join(f"{layer}: {reason}" for layer, reason in new.items())
        raise BadInput(f"--init {path} has no layer that fits {config.preset} ({reasons})")
    taken = ", ".join(layer for layer in params if layer not in new)
    console.print(f"Taken from {path}: {taken}.", soft_wrap=True)
    for layer, reason in new.items():
        console.print(f"New: {layer}; {reason}.", soft_wrap=True)
    meanings = {
        name: values
        for name, values in diff(there.config, config).items()
        if name.startswith(("model.", "data.mean", "data.scale"))
        and not name.endswith((".std", ".bias", ".bias_std", ".units"))
        and not any(f".{layer}." in name for layer in new)
    }
    for name, (before, now) in meanings.items():
        console.print(f"These weights come from a network with another {name}: {before}, here {now}", style="yellow",
                      soft_wrap=True)  # fmt: skip
    return state._replace(params=params)


def advice(loss: float, classes: int, name: str) -> str | None:
    """What to do where an epoch has left the validation loss no better than that of guessing."""
    guess = math.log(classes)
    if loss < 0.99 * guess:
        return None
    return (
        f"After an epoch the loss is {loss:.4g}, no better than guessing, which gives {guess:.4g}. To see why, run "
        f"python -m alexnet_jax.diagnose {name}, with this run's --model, --optim and --data options."
    )


def about(records: Records) -> dict[str, Any]:
    """What a checkpoint says of the data. The embedded set lies elsewhere on every machine."""
    embedded = records.directory == EMBEDDED
    return {
        "path": None if embedded else str(records.directory.absolute()),
        "fingerprint": records.fingerprint,
        "image_shape": list(records.image_shape),
        "classes": records.classes,
    }


def peak_memory() -> str:
    """The most memory that was in use so far."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return f"{stats['peak_bytes_in_use'] / 2**30:.1f} GiB on a device"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB on the host"


class Signals:
    """Lets a step end before an interrupt or a request to terminate ends the run; a second one does not wait."""

    stop = 0

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _take(self, number: int, frame: Any) -> None:
        self.stop = number
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def train() -> None:
    command_line.keep_memory()
    command_line.make_cpu_devices()  # before the user's file, which may well use JAX
    options, config = parse_options()
    console = Console(highlight=False)

    # The pictures, the network and the devices, and whether they fit together.
    records = Records(options.directory or EMBEDDED)
    config = fit_classes(config, records)
    check_fit(config, records)
    check_layers(config.optim, [row.layer for row in functional.describe(config.model)])
    mesh = command_line.mesh_of(options.mesh, config)
    rows = columns.rows(mesh, config.optim.batch)
    run = options.workdir or Path("runs") / Path(options.config).stem
    resumed = find_run(run, config, records.fingerprint)
    console.print(network_table(config.model))
    for name, (before, now) in diff(preset(config.preset), config).items():
        console.print(f"{name}: {before} -> {now}", style="yellow", soft_wrap=True)

    # How far it goes. An epoch shows every picture once; its border may lie inside a batch.
    batch, examples = config.optim.batch, records.examples(TRAIN)
    whole = math.ceil(config.optim.epochs * examples / batch)
    first, last = resumed.step if resumed else 0, min(whole, options.steps or whole)
    console.print(
        f"{config.preset} on {examples} pictures of {records.directory}, {mesh.shape[columns.DATA]} x "
        f"{mesh.shape[columns.COLUMN]} devices ({jax.default_backend()}), {config.precision}, {run}: "
        f"step {first} to {last} of {whole}",
        soft_wrap=True,
    )
    if first >= last:
        console.print("Nothing is left to do.")
        return

    # The compiled parts, and the state, born on the mesh.
    forward = functional.forward(config.model, mesh, config.precision)
    train_step = make_train_step(forward, augmentation(config, records, mesh), config.optim)
    meter = Meter(config, records, records.statistics, mesh)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    state = resumed.state(mesh) if resumed else fresh_state(config, init_key, mesh)
    if options.init and resumed:
        console.print(f"--init {options.init} is left aside: {run} goes on from its own step {first}.", soft_wrap=True)
    elif options.init:
        state = start_from(options.init, config, records, state, console)
    size = config.model.image_size
    views = jax.ShapeDtypeStruct((batch, size, size, config.model.channels), jnp.float32)
    jax.eval_shape(forward, state.params, views)  # says what does not fit the mesh
    progress = Progress.from_json(resumed.progress) if resumed else Progress()
    batches = training_batches(
        records,
        config.optim,
        seed=config.seed,
        reshuffle=config.data.reshuffle,
        rows=rows,
        first=first,
        workers=options.workers,
    )

    make_run(run, config)
    with (
        Log(run, first) as log,
        checkpoint.Writer(run, config, about(records), records.statistics._asdict(), options.save_minutes) as writer,
        ProgressBar(console, first, last) as bar,
        Signals() as signals,
    ):
        watch = Watch(progress.window, log, bar, batch, examples, options.log_every)
        if options.init and not resumed:
            writer.save_latest(
                state, 0, progress.to_json()
            )  # so that the run goes on from them, with or without --init
        for step in range(first, last):
            rate = rates(config.optim, step * batch / examples, progress)
            until = config.data.colour_noise_until
            noise = 1.0 if until is None or step * batch / examples < until else 0.0
            pictures = columns.shard_batch(watch.next_of(batches), mesh, batch)
            state, metrics = train_step(state, pictures["image"], pictures["label"], run_key, rate, noise)
            watch.follow(step + 1, metrics, rate.weights)

            done = step + 1
            epoch_ends = done * batch // examples > step * batch // examples or done == whole
            if epoch_ends:
                watch.settle()
                figures = meter.measure(state.params, crops=1)
                watch.validated(done, figures, crops=1)
                said = advice(figures["loss"], config.model.classes, options.config)
                if said and done * batch // examples == 1:
                    bar.print(said)
                progress.weights.see(figures["top1_error"], config.optim.schedule)
                progress.biases.see(figures["top1_error"], config.optim.bias_schedule)
                if progress.best_error is None or figures["top1_error"] < progress.best_error:
                    progress.best_error = figures["top1_error"]
                    writer.save_best(state, done, progress.to_json())
            if done == whole:
                watch.validated(done, meter.measure(state.params, crops=10), crops=10)
            if done == last or signals.stop or writer.due(done):
                watch.settle()
                writer.save_latest(state, done, progress.to_json())
            if signals.stop:
                break
    console.print(f"Peak memory: {peak_memory()}.")
    if signals.stop:
        console.print(
            f"Interrupted at step {done}, which is saved; the same command goes on from there.", soft_wrap=True
        )
        sys.exit(128 + signals.stop)


if __name__ == "__main__":
    command_line.main(train)
