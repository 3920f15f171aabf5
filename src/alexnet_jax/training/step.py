"""The training step and the evaluation step: pure functions that know neither the network nor its layout.

B batch  H,W height,width  C channels  K classes
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from alexnet_jax.training.optimiser import Optimiser, Rates, moments, update


class State(NamedTuple):
    """What a step changes."""

    step: Array
    params: Any
    moments: Any


def new_state(params: Any, optim: Optimiser) -> State:
    return State(jnp.zeros((), jnp.int32), params, moments(optim, params))


def make_train_step(
    forward: Callable[..., Array], augment: Callable[..., Array], optim: Optimiser
) -> Callable[..., tuple[State, dict[str, Array]]]:
    """step(state, images uint8 [B, H, W, C], label [B], key, rates, noisy) -> (state, metrics), compiled.

    `augment(images, key, noisy)` and `forward(params, images, key=, train=)` get keys made only of `key` and the step's
    number, so that a run resumes exactly. The metrics are means over the batch. The state passed in is donated.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: State, images_BHWC: Array, label_B: Array, key: Array, rates: Rates, noisy: Array
    ) -> tuple[State, dict[str, Array]]:
        _, mean_loss, logits_BK, gradients = gradient(forward, augment, state, images_BHWC, label_B, key, noisy)
        params, moments, changes = update(optim, state.params, state.moments, gradients, rates)
        metrics = {
            "loss": mean_loss,
            "top1_error": jnp.mean(jnp.argmax(logits_BK, axis=-1) != label_B),
            "update_norm": optax.tree.norm(changes),  # finite only if the new parameters are
        }
        return State(state.step + 1, params, moments), metrics

    return step


def gradient(
    forward: Callable[..., Array],
    augment: Callable[..., Array],
    state: State,
    images_BHWC: Array,
    label_B: Array,
    key: Array,
    noisy: Array,
) -> tuple[Array, Array, Array, Any]:
    """The first half of a step: (views [B, h, w, C], mean loss, logits [B, K], the gradient by the parameters)."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    views_BhwC = augment(images_BHWC, augment_key, noisy)

    def loss(params: Any) -> tuple[Array, Array]:
        logits_BK = forward(params, views_BhwC, key=dropout_key, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BK, label_B).mean(), logits_BK

    (mean_loss, logits_BK), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    return views_BhwC, mean_loss, logits_BK, gradients


Probabilities = Callable[[Any, Array, int], Array]


def make_probabilities(forward: Callable[..., Array], view: Callable[[Array, Array], Array]) -> Probabilities:
    """probabilities(params, images uint8 [B, H, W, C], crops) -> [B, K], means over the first test views (section 4.1).

    `view(images, n)` is the n-th test view. Compiled once for all views.
    """

    @jax.jit
    def of_view(params: Any, images_BHWC: Array, n: Array) -> Array:
        return jax.nn.softmax(forward(params, view(images_BHWC, n)))

    def probabilities(params: Any, images_BHWC: Array, crops: int) -> Array:
        views = (waited_for(of_view(params, images_BHWC, jnp.int32(n))) for n in range(crops))
        return reduce(jnp.add, views) / crops

    return probabilities


def waited_for(x: Array) -> Array:
    """x, once it is computed, if several devices of a CPU compute it.

    Without it, evaluating several networks on two devices and two cores stood still (test_meter.py). XLA runs programs
    that do not depend on each other at the same time, and their exchanges, which wait for the other device, seem to
    hold all threads.
    """
    on_cpu = all(device.platform == "cpu" for device in x.devices())
    return x.block_until_ready() if on_cpu and len(x.devices()) > 1 else x


def mean_probabilities(members: Sequence[Probabilities]) -> Probabilities:
    """The mean over several networks (section 5, Table 2); `params` is a list of their parameters."""

    def probabilities(params: Any, images_BHWC: Array, crops: int) -> Array:
        parts = (member(own, images_BHWC, crops) for member, own in zip(members, params, strict=True))
        return reduce(jnp.add, parts) / len(members)

    return probabilities


def make_error_sums(probabilities: Probabilities) -> Callable[..., dict[str, Array]]:
    """sums(params, images uint8 [B, H, W, C], label [B], weight [B], crops) -> sums of loss and errors over the batch.

    An example of weight 0 is padding. A label that is not among the five most likely classes is a top-5 error.
    """

    @jax.jit
    def sums_of(probability_BK: Array, label_B: Array, weight_B: Array) -> dict[str, Array]:
        _, guess_B5 = jax.lax.top_k(probability_BK, min(5, probability_BK.shape[-1]))
        hit_B5 = guess_B5 == label_B[:, None]
        likelihood_B = jnp.take_along_axis(probability_BK, label_B[:, None], axis=-1)[:, 0]
        loss_B = -jnp.log(jnp.maximum(likelihood_B, jnp.finfo(jnp.float32).tiny))
        return {
            "loss": jnp.sum(weight_B * loss_B),
            "top1_error": jnp.sum(weight_B * ~hit_B5[:, 0]),
            "top5_error": jnp.sum(weight_B * ~hit_B5.any(axis=1)),
            "examples": jnp.sum(weight_B),
        }

    def sums(params: Any, images_BHWC: Array, label_B: Array, weight_B: Array, crops: int) -> dict[str, Array]:
        return sums_of(probabilities(params, images_BHWC, crops), label_B, weight_B)

    return sums
