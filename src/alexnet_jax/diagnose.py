"""python -m alexnet_jax.diagnose [PRESET or FILE.py]: why a loss does not move, from one batch of images."""

import math
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexnet_jax import command_line
from alexnet_jax.config import Config, Model
from alexnet_jax.data.pictures import fit
from alexnet_jax.data.records import EMBEDDED, TRAIN, VALIDATION, Records
from alexnet_jax.data.views import augmentation
from alexnet_jax.data.writing import write
from alexnet_jax.networks import columns, functional
from alexnet_jax.training.fit import fit_classes
from alexnet_jax.training.meter import check_fit
from alexnet_jax.training.optimiser import Rates, check_layers, moments, rates, update
from alexnet_jax.training.progress import Progress

IMAGES, STEPS = 32, 20

# How much larger or smaller a hidden layer's activations may be than those of the layer before it, and how large its
# first update as a share of its kernel. In the presets the factors are at most 5.7 (conv3 of `cifar`). The updates are
# at most 0.042 (fc1 of `tutorial`), except in conv1 of the CIFAR-10 networks. That starts with a std of 0.0001, its
# first update is 0.19 to 0.75 of it over several seeds, and these networks learn.
GAIN, UPDATE = 25.0, 2.0

GOOD_STD = "sqrt(2 / inputs of a unit)"
TOO_HIGH = "The learning rate is too high"


@dataclass(frozen=True)
class Options(command_line.Recipe):
    """Sends one batch through the untrained network and back, and says what is wrong and what to do.

    Then it takes 20 steps on these same images, which a network that can learn begins to memorise. Without --data it
    uses embedded images, enlarged where the network reads larger ones.
    """


class Layer(NamedTuple):
    """A layer before the first step."""

    name: str
    mean: float
    """of its activations, over images, positions and units"""
    std: float
    dead: float
    """the share of its units (maps) that have one value at every position of every image"""
    differs: float
    """how much its activations vary between images, as a share of their size"""
    gradient: float
    """L2 norm of the loss's gradient by its kernel"""
    change: float
    """L2 norm of the first update over that of the kernel"""

    @property
    def size(self) -> float:
        """The root mean square of its activations."""
        return math.hypot(self.mean, self.std)


class Diagnosis(NamedTuple):
    layers: list[Layer]
    losses: list[float]
    """of the same images before each of the steps, dropout on, and once after the last one"""
    silenced: tuple[str, float]
    """the hidden layer that lost most of its units in these steps, and the share that is dead after them"""
    gentle: list[float] | None
    """as `losses`, with a tenth of the learning rate; None where `losses` fell well at some time"""
    guess: float
    """the loss of guessing, ln K"""


def batch_of(config: Config, records: Records) -> tuple[Array, Array]:
    """The first images of the set as the network sees them in training, and their labels."""
    count = min(IMAGES, records.examples(TRAIN))
    taken = records.gather(TRAIN, np.arange(count))
    look = jax.jit(augmentation(config, records.statistics, columns.make_mesh()))
    return look(taken["image"], jax.random.key(config.seed), jnp.float32(1)), jnp.asarray(taken["label"])


def examine(config: Config, records: Records, steps: Iterable[int] = range(STEPS)) -> Diagnosis:
    """Measures the untrained network on one batch, then takes steps on it."""
    views, labels = batch_of(config, records)
    forward = functional.forward(config.model, precision=config.precision)
    features = functional.features(config.model)  # float32, so that small differences are seen
    rate = rates(config.optim, max(schedule.warmup for schedule in config.optim.schedules), Progress())

    def loss(params: Any, key: Array) -> Array:
        logits = forward(params, views, key=key, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: Any, state: Any, key: Array, rate: Rates) -> tuple[Any, ...]:
        value, gradient = jax.value_and_grad(loss)(params, key)
        return value, gradient, *update(config.optim, params, state, gradient, rate)

    key = jax.random.key(config.seed)
    fresh = functional.init(config.model, key)
    start = moments(config.optim, fresh)
    seen = after_activation(config.model)

    def trial(rate: Rates, numbers: Iterable[int]) -> tuple[list[float], Any]:
        params, state, losses = fresh, start, []
        for number in numbers:
            value, _, params, state, _ = step(params, state, jax.random.fold_in(key, number), rate)
            losses.append(float(value))
        return [*losses, float(step(params, state, key, rate)[0])], params

    _, gradient, *_, change = step(fresh, start, key, rate)
    before = jax.device_get(features(fresh, views))
    layers = [
        look(name, before[act], fresh[name]["kernel"], gradient[name]["kernel"], change[name]["kernel"])
        for name, act in seen.items()
    ]
    losses, trained = trial(rate, steps)
    after = jax.device_get(features(trained, views))
    lost = {name: dead(after[act]) - dead(before[act]) for name, act in list(seen.items())[:-1]}
    silenced = max(lost, key=lambda name: lost[name])
    slow = not min(losses) < 0.8 * losses[0]
    gentle = trial(rate._replace(weights=rate.weights / 10, biases=rate.biases / 10), range(STEPS))[0] if slow else None
    return Diagnosis(layers, losses, (silenced, dead(after[seen[silenced]])), gentle, math.log(config.model.classes))


def after_activation(model: Model) -> dict[str, str]:
    """Each layer, and the name under which `features` gives what leaves its nonlinearity (pool1 where that is last)."""
    seen = {}
    for row in functional.describe(model):
        name = row.layer
        for follower in getattr(getattr(model, row.layer), "then", ()):
            name = name if follower == "activation" else f"{'pool' if follower == 'pool' else 'norm'}{name[-1]}"
            if follower == "activation":
                break
        seen[row.layer] = name
    return seen


def look(name: str, act: np.ndarray, kernel: Array, gradient: Array, change: Array) -> Layer:
    size = float(np.sqrt(np.mean(np.square(act, dtype=np.float64))))
    norm = [float(jnp.linalg.norm(array)) for array in (kernel, gradient, change)]
    return Layer(
        name,
        mean=float(act.mean(dtype=np.float64)),
        std=float(act.std(dtype=np.float64)),
        dead=dead(act),
        differs=float(act.std(axis=0, dtype=np.float64).mean()) / size if size else 0.0,
        gradient=norm[1],
        change=norm[2] / norm[0] if norm[0] else math.inf,
    )


def dead(act: np.ndarray) -> float:
    """The share of units, or maps, that have one value at every position of every image."""
    every = tuple(range(act.ndim - 1))
    return float(np.mean(act.max(axis=every) == act.min(axis=every)))


def verdict(found: Diagnosis) -> str:
    """What the figures mean and what to do: the first cause that explains them."""
    layers, losses, guess = found.layers, found.losses, found.guess
    # Momentum may carry the loss up again, most of all in a batch smaller than the preset's.
    first, last, best, hidden = losses[0], losses[-1], min(losses), layers[:-1]
    steps = len(losses) - 1
    if not math.isfinite(first) or first > 5 * guess:
        largest = max(hidden, key=lambda layer: layer.std)
        return (
            f"The initial weights are too large: the first loss is {first:.3g}, and guessing would give {guess:.3f}. "
            f"Activations grow from a standard deviation of {hidden[0].std:.2g} after {hidden[0].name} to "
            f"{largest.std:.2g} after {largest.name}. Give the layers a smaller std, about {GOOD_STD}."
        )
    for layer in hidden:
        if layer.dead > 0.9:
            return (
                f"{layer.name} is dead: {layer.dead:.0%} of its units never fire, so nothing gets through it. "
                f"Give it a larger bias, or the layers before it smaller weights."
            )
    lost = next((layer for layer in layers if layer.differs < 0.01), None)
    if lost:
        number = layers.index(lost)
        before = f", {layers[number - 1].differs:.1%} after {layers[number - 1].name}" if number else ""
        return (
            f"The network cannot tell the images apart: activations vary between images by only {lost.differs:.2%} of "
            f"their size after {lost.name}{before}. All images get nearly the same logits, so the loss stays near "
            f"{guess:.3f} ({first:.3f} to {last:.3f} in {steps} steps). The initial weights are too small for the "
            f"biases."
        )
    # conv1 is not judged by a factor, as the scale of pixels is free, nor are the logits, which may well start small.
    for read, layer in pairwise(hidden):
        shrinks, factor = layer.size < read.size, max(layer.size / read.size, read.size / layer.size)
        if factor > GAIN:
            return (
                f"{layer.name} {'shrinks' if shrinks else 'amplifies'} the activations by a factor of {factor:.0f}: "
                f"their root mean square is {read.size:.2g} after {read.name} and {layer.size:.2g} after "
                f"{layer.name}. Gradients {'shrink' if shrinks else 'grow'} as much on the way back. "
                f"Give {layer.name} a {'larger' if shrinks else 'smaller'} std, about {GOOD_STD}."
            )
    worst = max(losses, key=lambda loss: loss if math.isfinite(loss) else math.inf)
    if not math.isfinite(worst) or worst > 10 * max(first, guess):
        at = next(number for number, loss in enumerate(losses) if not loss <= 10 * max(first, guess))
        return (
            f"{TOO_HIGH}: on the same images the loss goes from {first:.3f} to {losses[at]:.3g} in {at} "
            f"{'step' if at == 1 else 'steps'}. Try a tenth of it."
        )
    silenced, share = found.silenced
    share_before = next(layer.dead for layer in layers if layer.name == silenced)
    if found.gentle and share > share_before + 0.5:
        return (
            f"{TOO_HIGH}: {steps} steps on the same images silence {silenced}. {share_before:.0%} of its units were "
            f"dead before them, {share:.0%} are dead after them (loss {first:.3f} to {last:.3f}). Try a tenth of it."
        )
    if found.gentle and min(found.gentle) < 0.9 * best:
        return (
            f"{TOO_HIGH}: in {steps} steps on the same images the loss falls from {first:.3f} to {best:.3f} at best. "
            f"With a tenth of the rate it falls to {min(found.gentle):.3f}. Try that."
        )
    for layer in hidden:
        if layer.change > UPDATE:
            return (
                f"The first update is {layer.change:.0%} of {layer.name}'s kernel, so it overwrites the initial "
                f"weights. Give {layer.name} a larger std, about {GOOD_STD}, or a lower learning rate "
                f"(--optim.layer-rates {layer.name} 0.1)."
            )
    if best > 0.99 * first:
        return (
            f"The loss hardly moves: {first:.4f} to {last:.4f} in {steps} steps on the same images, although every "
            f"layer tells them apart. Try a higher learning rate, or larger initial weights."
        )
    return (
        f"Nothing is wrong here: the network tells the images apart, and the loss on them falls from {first:.3f} to "
        f"{best:.3f} in {steps} steps."
    )


def table_of(found: Diagnosis) -> Table:
    table = Table("layer", title="Before the first step")
    for column in ("mean", "std", "dead units", "varies by image", "gradient", "update / kernel"):
        table.add_column(column, justify="right")
    for layer in found.layers:
        shares = f"{layer.dead:.0%}", f"{layer.differs:.2%}"
        figures = (f"{value:.2e}" for value in (layer.gradient, layer.change))
        table.add_row(layer.name, f"{layer.mean:.3g}", f"{layer.std:.3g}", *shares, *figures)
    return table


def enlarged(config: Config, directory: Path) -> Records:
    """Embedded images in the size and colours that the network reads, with the paper's room for crops."""
    embedded, model = Records(EMBEDDED), config.model
    taken = embedded.gather(TRAIN, np.arange(IMAGES))
    side = model.image_size * 256 // 224
    pictures = [fit(image, (side, side, model.channels), "warp") for image in taken["image"]]
    examples = list(zip(pictures, map(int, taken["label"]), strict=True))
    write(directory, {TRAIN: examples, VALIDATION: examples}, embedded.classes, embedded.meta["source"])
    return Records(directory)


def diagnose() -> None:
    options, config = command_line.parse_recipe(Options)
    console = Console(highlight=False)
    with ExitStack() as stack:
        records, model = Records(options.directory or EMBEDDED), config.model
        kind = "images"
        H, _, C = records.image_shape
        if not options.directory and (model.channels != C or H + 2 * config.data.pad < model.image_size):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "enlarged"
            records, kind = enlarged(config, directory), "enlarged embedded images"
        config = fit_classes(config, records)
        check_fit(config, records)
        check_layers(config.optim, [row.layer for row in functional.describe(config.model)])
        shape = "x".join(map(str, records.image_shape))
        console.print(f"{config.preset} on {min(IMAGES, records.examples(TRAIN))} {kind} of {shape}", soft_wrap=True)
        found = examine(config, records, track(range(STEPS), "steps", console=Console(stderr=True), transient=True))
    console.print(table_of(found))
    said = verdict(found)
    if said.startswith(TOO_HIGH) and config.optim.batch > IMAGES:
        said += f" (That is for a batch of {IMAGES}; one of {config.optim.batch} may tolerate it.)"
    console.print(said, soft_wrap=True)


if __name__ == "__main__":
    command_line.main(diagnose)
