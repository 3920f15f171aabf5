"""A whole run in one call: it trains, logs and saves, and continues if it was interrupted."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from rich.console import Console

from alexnet_jax.config import BadInput, Config, diff, preset
from alexnet_jax.data.pipeline import training_batches
from alexnet_jax.data.records import EMBEDDED, TRAIN, Records
from alexnet_jax.data.views import augmentation
from alexnet_jax.networks import columns, functional
from alexnet_jax.training import checkpoint, not_finite, processes
from alexnet_jax.training.full_disk import writing_to
from alexnet_jax.training.log import Log, ProgressBar, Watch, network_table, peak_memory, read_metrics, validation
from alexnet_jax.training.meter import Meter, check_fit, probabilities_of
from alexnet_jax.training.optimiser import check_layers, rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.run_directory import check_run, resume, run_directory
from alexnet_jax.training.signals import Signals, end_by
from alexnet_jax.training.step import State, gradient, make_train_step, new_state
from alexnet_jax.training.trained import start_from

Init = Callable[[Array], Any]


@dataclass(frozen=True)
class Run:
    """A run, complete or not."""

    path: Path
    config: Config
    """the config as run, with the number of classes in the data"""
    params: Any
    """after its last step, on the run's mesh"""
    metrics: list[dict[str, Any]]
    """the lines of metrics.jsonl; errors are fractions"""


def fit(
    config: Config,
    path: str | Path,
    data: str | Path | None = None,
    mesh: Mesh | None = None,
    steps: int | None = None,
    *,
    layout: columns.Layout = "columns",
    init: Init | str | Path | None = None,
    forward: functional.Forward | None = None,
    optimiser: optax.GradientTransformation | None = None,
    workers: int = 0,
    log_every: int = 10,
    save_minutes: float = 2.0,
    progress: bool = True,
) -> Run:
    """Trains a network in the run directory `path`, or continues a run that was interrupted there.

    data: a prepared data directory; by default the embedded 12,000 images of Fashion-MNIST. mesh: by default the one
    that suits the machine. layout: as for `forward`; a run may continue on another mesh or layout. steps: stop after
    this many in total; the schedules stay those of the complete run. workers: processes that read data ahead, 0 for
    threads. log_every: steps per line of metrics.jsonl. save_minutes: minutes between checkpoints. progress: whether to
    print what happens and show a progress bar.

    Your own code can replace a part:

    - init(key) -> params, nested dicts of arrays, replaces the initial weights. It may also be the path of a run, a
      checkpoint or a file of weights: the run starts from the layers that fit, and the others are new (section 6,
      note 1).
    - forward(params, images, *, key=None, train=False) -> logits, a pure function, replaces the network. images are
      float32 [B, image_size, image_size, channels] as `config.data` prepares them, logits [B, classes].
    - optimiser replaces the rule, rates, decay and schedules of `config.optim`; its batch and epochs still apply.

    Several processes (after `jax.distributed.initialize`) make the same call, with a path that all of them see. They
    train one network, and the first of them prints and logs.

    The batch is sharded over the data axis of the mesh, for any network. The parameters of your own `init` are copied
    to every device. config.json cannot hold code, so it holds its name, and a run does not resume with another.

    An interrupt (KeyboardInterrupt), SIGTERM or SIGUSR1 (SystemExit, code 143 or 138) ends the run after its current
    step is saved; a validation that it stops is repeated when the run continues. A checkpoint that is damaged is set
    aside, and the run continues from the one before. Raises BadInput if the run is impossible or the directory holds
    something else, before anything is written, if another process uses the directory, if it cannot be written, and if a
    loss is no longer finite, with the first layer where that happened.

    >>> config = alexnet.preset("fashion")
    >>> run = alexnet.fit(config, "runs/one", steps=20, progress=False)
    >>> run.metrics[-1]["step"], sorted(run.params)[0]
    (20, 'conv1')
    """
    if (steps is not None and steps < 1) or log_every < 1 or min(save_minutes, workers) < 0:
        raise BadInput("steps and log_every are at least 1, save_minutes and workers at least 0")
    path = Path(path)
    console = Console(highlight=False, quiet=not (progress and processes.first()))
    say = partial(console.print, soft_wrap=True)

    # The images, the network and the devices, and whether they fit.
    records = Records(Path(data) if data else EMBEDDED)
    config = fit_classes(config, records)
    check_fit(config, records)
    own_init = init if callable(init) else None
    if layout != "columns" and (own_init or forward):
        raise BadInput(f"the layout {layout} is for the networks of this package; leave it out, or leave out your own")
    mesh = mesh or columns.suitable_mesh(1 if own_init else config.model.columns, layout)
    rows = columns.rows(mesh, config.optim.batch)
    network = forward or functional.forward(config.model, mesh, config.precision, layout=layout)
    rule = optimiser or config.optim

    def create(key: Array) -> State:
        return new_state(own_init(key) if own_init else functional.init(config.model, key), rule)

    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    shapes = jax.eval_shape(create, init_key)
    check_network(config, network, shapes.params)
    if not optimiser:
        check_layers(config.optim, list(shapes.params))
    places = layout_of(shapes, mesh, layout, own=own_init is not None)
    config = replace(config, own=own_parts(own_init, forward, shapes.moments if optimiser else None))
    check_run(path, config)
    resumed = resume(path, config, records.fingerprint, shapes, places, say)

    # From which step to which. An epoch shows every image once, and may end inside a batch.
    batch, examples = config.optim.batch, records.examples(TRAIN)
    if batch > examples:
        raise BadInput(
            f"optim.batch is {batch} and {records.directory} has {examples} training images; "
            f"give a batch of at most that"
        )
    whole = steps_of(config, examples)
    first, last = resumed.checkpoint.step if resumed else 0, min(whole, steps or whole)
    if not own_init and not forward:
        console.print(network_table(config.model))
    for name, (before, now) in diff(preset(config.preset), config).items():
        say(f"{name}: {before} -> {now}", style="yellow")
    backend = jax.default_backend() + (", hybrid" if layout == "hybrid" else "")
    say(
        f"{config.preset} on {examples} images of {records.directory}, {mesh.shape[columns.DATA]} x "
        f"{mesh.shape[columns.COLUMN]} devices ({backend}), {config.precision}, {path}: "
        f"step {first} to {last} of {whole}"
    )
    state = resumed.state if resumed else jax.jit(create, out_shardings=places)(init_key)
    known = Progress.from_json(resumed.checkpoint.progress) if resumed else Progress()
    if known.owed == [10] and any(
        line["step"] == first and f"{validation(10)}/loss" in line for line in read_metrics(path)
    ):
        known.owed = []
    begin = first if known.owed else first + 1  # the first step after which there is something to do
    if begin > last:
        say("This run is complete; nothing is left to do.")
        return Run(path, config, state.params, read_metrics(path))
    start = None if callable(init) or init is None else Path(init)
    if start and resumed:
        say(f"--init {start} is ignored: {path} continues from its own step {first}.")
    elif start:
        state = state._replace(params=start_from(start, config, records, state.params, say))

    # The compiled parts.
    train_step = make_train_step(network, augmentation(config, records.statistics, mesh), rule)
    meter = Meter(records, mesh, config.optim.batch, probabilities_of(config, records.statistics, mesh, network))
    batches_from = partial(
        training_batches,
        records,
        config.optim,
        seed=config.seed,
        reshuffle=config.data.reshuffle,
        rows=rows,
        workers=workers,
    )
    batches = batches_from(first=first)

    def noise_at(step: int) -> float:
        until = config.data.colour_noise_until
        return 1.0 if until is None or step * batch / examples < until else 0.0

    def where(bad: int) -> str:
        """The first number that is not finite in step `bad`. Repeats the steps from the last checkpoint up to it."""
        before = partial(resume, path, config, records.fingerprint, shapes, places, say)
        there = before()
        if bad - 1 > (there.checkpoint.step if there else 0):
            say(f"The loss is no longer finite at step {bad}. The steps before it are repeated to find out where.")
            fit(config, path, data, mesh, bad - 1, layout=layout, init=init, forward=forward, optimiser=optimiser,
                workers=workers, log_every=log_every, save_minutes=save_minutes, progress=False)  # fmt: skip
            there = before()
        state = there.state if there else jax.jit(create, out_shardings=places)(init_key)
        images = columns.shard_batch(next(batches_from(first=bad - 1)), mesh, batch)
        half = jax.jit(partial(gradient, network, augmentation(config, records.statistics, mesh)))
        views, loss, _, gradients = half(state, images["image"], images["label"], run_key, noise_at(bad - 1))
        model = None if own_init or forward else config.model
        layers = functional.features(model, mesh, config.precision, layout=layout) if model else lambda *_: {}
        return not_finite.place(model, layers(state.params, views), loss, gradients)

    with (
        not_finite.explained(where),
        writing_to(path),
        processes.first_in(run_directory(path, config, resumed)),
        Signals() as signals,
        Log(path, first, known.owed) as log,
        checkpoint.Writer(path, config, about(records), records.statistics._asdict(), save_minutes) as writer,
        ProgressBar(console, first, last) as bar,
    ):
        watch = Watch(known.window, log, bar, batch, examples, log_every)
        stopped, due = processes.Agreed(mesh), processes.Agreed(mesh)
        if start and not resumed:  # so that the run can continue without `init`
            writer.save_latest(state, 0, known.to_json())
        for done in range(begin, last + 1):
            step = done - 1
            if done > first:
                rate = rates(config.optim, step * batch / examples, known)
                images = columns.shard_batch(watch.next_of(batches), mesh, batch)
                state, metrics = train_step(state, images["image"], images["label"], run_key, rate, noise_at(step))
                signals.take()
                watch.follow(done, metrics, None if optimiser else rate.weights)
                epoch_ends = done * batch // examples > step * batch // examples
                known.owed = ([1] if epoch_ends or done == whole else []) + ([10] if done == whole else [])

            while known.owed:
                watch.settle()
                crops = known.owed[0]
                figures = meter.measure_until(lambda: stopped(signals.stop), state.params, crops)
                if figures is None:
                    break
                watch.validated(done, figures, crops)
                known.owed = known.owed[1:]
                if crops == 10:
                    continue
                said = advice(figures["loss"], config.model.classes, path, records.directory)
                if said and done * batch // examples == 1:
                    bar.print(said)
                for plateau, schedule in zip((known.weights, known.biases), config.optim.schedules, strict=True):
                    plateau.see(figures["top1_error"], schedule)
                if known.best_error is None or figures["top1_error"] < known.best_error:
                    known.best_error = figures["top1_error"]
                    writer.save_best(state, done, known.to_json())
            stop = stopped(signals.stop)  # asked once, so that no signal comes between saving and stopping
            if due(writer.due(done)) or done == last or stop:
                watch.settle()
                writer.save_latest(state, done, known.to_json())
            if stop:
                break
    say(f"Peak memory: {peak_memory()}.")
    stop = stop or signals.stop  # it may have come while the last save was awaited
    if stop:
        say(f"Interrupted at step {done}, which is saved; the same command continues from there.")
        end_by(stop)
    return Run(path, config, state.params, read_metrics(path))


# ----------------------------------------------------------------------------------------- what belongs together


def fit_classes(config: Config, records: Records) -> Config:
    """The config with the data's number of classes. Raises BadInput if the user asked for another number."""
    there, asked = len(records.classes), config.model.classes
    if there == asked:
        return config
    if asked != preset(config.preset).model.classes:
        option = f"--model.{config.model.logits}.units"
        raise BadInput(f"{records.directory} has {there} classes and {option} asks for {asked}; leave that option out")
    return replace(config, model=config.model.with_classes(there))


def steps_of(config: Config, examples: int) -> int:
    """The steps of a complete run over this many training images."""
    return math.ceil(config.optim.epochs * examples / config.optim.batch)


def own_parts(init: Any, forward: Any, moments: Any) -> tuple[tuple[str, str], ...]:
    """Names for the parts that are the caller's own code. An Optax optimiser has no name but the types of its state."""
    found = [
        (part, getattr(code, "__name__", type(code).__name__))
        for part, code in (("init", init), ("forward", forward))
        if code is not None
    ]
    if moments is not None:
        kinds = moments if type(moments) is tuple else (moments,)
        found.append(("optimiser", " ".join(type(kind).__name__ for kind in kinds)))
    return tuple(found)


def check_network(config: Config, forward: functional.Forward, params: Any) -> None:
    """Raises BadInput if the parameters are not nested dicts or `forward` does not return logits for the classes."""
    if not isinstance(params, dict):
        raise BadInput(f"init returns a {type(params).__name__}; return nested dicts of arrays, as Flax's init does")
    net, batch = config.model, config.optim.batch
    images = jax.ShapeDtypeStruct((batch, net.image_size, net.image_size, net.channels), jnp.float32)
    logits = jax.eval_shape(forward, params, images)
    if getattr(logits, "shape", None) != (batch, net.classes):
        raise BadInput(
            f"forward returns {getattr(logits, 'shape', type(logits).__name__)} for {batch} images; "
            f"return logits [B, classes], here ({batch}, {net.classes})"
        )


def layout_of(shapes: State, mesh: Mesh, layout: columns.Layout = "columns", *, own: bool) -> State:
    """The layout of the state. The state is created in it, so that the step compiles once."""
    params = columns.everywhere(shapes.params, mesh) if own else columns.shardings(shapes.params, mesh, layout)
    return State(
        columns.everywhere(shapes.step, mesh), params, columns.like(shapes.moments, shapes.params, params, mesh)
    )


def about(records: Records) -> dict[str, Any]:
    """The description of the data for checkpoints. The embedded set has another path on every machine."""
    embedded = records.directory == EMBEDDED
    return {
        "path": None if embedded else str(records.directory.absolute()),
        "fingerprint": records.fingerprint,
        "image_shape": list(records.image_shape),
        "classes": records.classes,
    }


def advice(loss: float, classes: int, run: Path, data: Path) -> str | None:
    """What to do if the validation loss after an epoch is no better than guessing; None if it is better."""
    guess = math.log(classes)
    if loss < 0.99 * guess:
        return None
    return (
        f"After an epoch the loss is {loss:.4g}, no better than guessing, which gives {guess:.4g}. "
        f"python -m alexnet_jax.diagnose {run}{'' if data == EMBEDDED else f' --data {data}'} says why."
    )
