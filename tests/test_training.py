"""The update rule, the schedules and the step."""

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config, OptimConfig, Schedule, presets
from alexnet_jax.networks import columns
from alexnet_jax.training.fit import layout_of
from alexnet_jax.training.log import Log, ProgressBar, Watch
from alexnet_jax.training.optimiser import Rates, check_layers, moments, rates, update
from alexnet_jax.training.progress import Plateau, Progress
from alexnet_jax.training.step import State, make_error_sums, make_probabilities, make_train_step, new_state


def tree(value: float) -> dict[str, dict[str, jax.Array]]:
    return {layer: {"kernel": jnp.full((1,), value), "bias": jnp.full((1,), value)} for layer in ("conv1", "fc8")}


def test_three_updates_across_a_rate_drop_equal_arithmetic_by_hand() -> None:
    """v <- 0.9 v - 0.0005 e w - e g;  w <- w + v. The rate e is inside v. Biases have no decay and twice the rate."""
    config = OptimConfig(decay_biases=False)
    params, velocity = tree(1.0), tree(0.0)
    expected = {"kernel": (1.0, 0.0), "bias": (1.0, 0.0)}
    for rate, g in ((0.1, 1.0), (0.1, -0.5), (0.01, 2.0)):
        params, velocity, _ = update(config, params, velocity, tree(g), Rates(rate, 2 * rate, 1.0))
        w, v = expected["kernel"]
        v = 0.9 * v - 0.0005 * rate * w - rate * g
        expected["kernel"] = w + v, v
        w, v = expected["bias"]
        v = 0.9 * v - 2 * rate * g
        expected["bias"] = w + v, v
    assert expected["bias"] == pytest.approx((0.608, -0.112))  # worked out by hand
    for kind, (w, v) in expected.items():
        assert float(params["fc8"][kind][0]) == pytest.approx(w, rel=1e-6)
        assert float(velocity["fc8"][kind][0]) == pytest.approx(v, rel=1e-6)


def test_a_layer_with_rate_0_does_not_move_and_loses_its_momentum() -> None:
    config = OptimConfig(layer_rates=(("fc8", 0.5),))
    params, velocity, _ = update(config, tree(1.0), tree(0.3), tree(1.0), Rates(0.1, 0.1, 0.0))
    assert float(params["conv1"]["kernel"][0]) == float(params["conv1"]["bias"][0]) == 1.0
    assert float(velocity["conv1"]["kernel"][0]) == 0.0
    assert float(velocity["fc8"]["kernel"][0]) == pytest.approx(0.27 - 0.05 * (1 + 0.0005))
    assert float(velocity["fc8"]["bias"][0]) == pytest.approx(0.27 - 0.05 * (1 + 0.0005))


def test_a_layer_may_have_its_own_decay() -> None:
    config = OptimConfig(layer_decays=(("fc8", 0.5),), decay_biases=False)
    _, velocity, change = update(config, tree(2.0), tree(0.0), tree(0.0), Rates(0.1, 0.1, 1.0))
    assert float(velocity["fc8"]["kernel"][0]) == float(change["fc8"]["kernel"][0]) == pytest.approx(-0.1 * 0.5 * 2)
    assert float(velocity["conv1"]["kernel"][0]) == pytest.approx(-0.1 * 0.0005 * 2)
    assert float(velocity["fc8"]["bias"][0]) == 0
    both = replace(config, decay_biases=True)
    _, velocity, _ = update(both, tree(2.0), tree(0.0), tree(0.0), Rates(0.1, 0.1, 1.0))
    assert float(velocity["fc8"]["bias"][0]) == pytest.approx(-0.1 * 0.5 * 2)


def test_a_layer_of_the_callers_network_may_nest_its_parameters() -> None:
    """Its name is the outermost one, and the parameter's the innermost."""
    config = OptimConfig(layer_rates=(("deep", 0.5),), decay=0.0)
    params = {name: {"er": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}} for name in ("deep", "er")}
    _, velocity, _ = update(config, params, moments(config, params), params, Rates(0.1, 0.2, 1.0))
    found = {(name, kind): float(own["er"][kind][0]) for name, own in velocity.items() for kind in ("kernel", "bias")}
    assert found == pytest.approx(
        {("deep", "kernel"): -0.05, ("deep", "bias"): -0.1, ("er", "kernel"): -0.1, ("er", "bias"): -0.2}
    )


@pytest.mark.parametrize("field", ["layer_rates", "layer_decays"])
def test_a_layer_that_does_not_exist_is_named(field: str) -> None:
    config = OptimConfig(**{field: (("conv9", 0.5),)})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=rf"optim.{field} names 'conv9'; the network's layers are conv1, fc8"):
        check_layers(config, tree(2.0))


def test_three_adam_updates_equal_arithmetic_by_hand() -> None:
    """Kingma and Ba, algorithm 1, with two rates; the first step is the rate itself, whatever the gradient's size."""
    config = OptimConfig(rule="adam", decay=0.0)
    params, state = tree(1.0), moments(config, tree(1.0))
    w, mean, square = 1.0, 0.0, 0.0
    for t, g in enumerate((50.0, -3.0, 8.0), start=1):
        params, state, _ = update(config, params, state, tree(g), Rates(0.01, 0.02, 1.0))
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        w -= 0.01 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)) ** 0.5 + 1e-8)
        assert float(params["conv1"]["kernel"][0]) == pytest.approx(w, rel=1e-5)
        if t == 1:
            assert w == pytest.approx(0.99)
            assert float(params["conv1"]["bias"][0]) == pytest.approx(0.98)


def test_adams_decay_is_part_of_the_gradient() -> None:
    """So it is part of both means, unlike that of adamw."""
    config = OptimConfig(rule="adam", decay=0.1, layer_rates=(("conv1", 0.5),))
    params, state = tree(1.0), moments(config, tree(1.0))
    theirs = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01))
    their_params, their_state = tree(1.0), theirs.init(tree(1.0))
    for g in (0.05, -0.3, 0.1):
        params, state, _ = update(config, params, state, tree(g), Rates(0.01, 0.01, 1.0))
        changes, their_state = theirs.update(tree(g), their_state, their_params)
        their_params = optax.apply_updates(their_params, changes)
    assert float(params["fc8"]["kernel"][0]) == pytest.approx(float(their_params["fc8"]["kernel"][0]), rel=1e-6)
    assert float(params["conv1"]["bias"][0]) > float(params["fc8"]["bias"][0]), "conv1 has half the rate"


def test_three_adamw_updates_equal_arithmetic_by_hand_and_optax() -> None:
    """Loshchilov and Hutter, algorithm 2: the decay is not part of the gradient. Biases have none here."""
    config = OptimConfig(rule="adamw", decay=0.1, decay_biases=False)
    params, state = tree(1.0), moments(config, tree(1.0))
    theirs = optax.adamw(0.01, weight_decay=0.1)
    their_params, their_state = tree(1.0), theirs.init(tree(1.0))
    w, mean, square = 1.0, 0.0, 0.0
    for t, g in enumerate((50.0, -3.0, 8.0), start=1):
        params, state, _ = update(config, params, state, tree(g), Rates(0.01, 0.02, 1.0))
        changes, their_state = theirs.update(tree(g), their_state, their_params)
        their_params = optax.apply_updates(their_params, changes)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        w -= 0.01 * ((mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)) ** 0.5 + 1e-8) + 0.1 * w)
        assert float(params["fc8"]["kernel"][0]) == pytest.approx(w, rel=1e-5)
        assert float(their_params["fc8"]["kernel"][0]) == pytest.approx(w, rel=1e-5)
        if t == 1:
            assert float(params["fc8"]["bias"][0]) == pytest.approx(0.98), "twice the rate, and no decay"


def wide_tree(seed: int) -> dict[str, dict[str, jax.Array]]:
    rng = np.random.default_rng(seed)
    return {
        layer: {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "bias": jnp.asarray(rng.normal(size=3))}
        for layer in ("conv1", "fc8")
    }


def test_lamb_equals_that_of_optax() -> None:
    config = OptimConfig(rule="lamb", decay=0.1)
    params, state = wide_tree(0), moments(config, wide_tree(0))
    theirs = optax.lamb(0.01, weight_decay=0.1)
    their_params, their_state = wide_tree(0), theirs.init(wide_tree(0))
    for seed in (1, 2, 3):
        params, state, _ = update(config, params, state, wide_tree(seed), Rates(0.01, 0.01, 1.0))
        changes, their_state = theirs.update(wide_tree(seed), their_state, their_params)
        their_params = optax.apply_updates(their_params, changes)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(their_params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_two_lars_updates_equal_the_formula() -> None:
    """You, Gitman and Ginsburg 2017, algorithm 1. Biases have the plain rate. optax.lars has another ratio."""
    config = OptimConfig(rule="lars", decay=0.1, trust=0.02, decay_biases=False)
    params, velocity = wide_tree(0), moments(config, wide_tree(0))
    w, b = (np.asarray(wide_tree(0)["fc8"][name], np.float64) for name in ("kernel", "bias"))
    v, v_b = np.zeros_like(w), np.zeros_like(b)
    for seed in (1, 2):
        params, velocity, _ = update(config, params, velocity, wide_tree(seed), Rates(0.5, 0.25, 1.0))
        g, g_b = (np.asarray(wide_tree(seed)["fc8"][name], np.float64) for name in ("kernel", "bias"))
        local = 0.02 * np.linalg.norm(w) / (np.linalg.norm(g) + 0.1 * np.linalg.norm(w))
        v = 0.9 * v - 0.5 * local * (g + 0.1 * w)
        v_b = 0.9 * v_b - 0.25 * g_b
        w, b = w + v, b + v_b
    np.testing.assert_allclose(params["fc8"]["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(params["fc8"]["bias"], b, rtol=1e-5)


def test_lars_gives_a_kernel_of_zeros_the_plain_rate() -> None:
    config = OptimConfig(rule="lars", decay=0.0)
    params, _, _ = update(config, tree(0.0), tree(0.0), tree(1.0), Rates(0.1, 0.1, 1.0))
    assert float(params["fc8"]["kernel"][0]) == pytest.approx(-0.1)


def test_an_optax_optimiser_replaces_the_rule() -> None:
    """Two steps of SGD with momentum. The rates do not apply."""
    rule = optax.sgd(0.1, momentum=0.9)
    params, state = tree(1.0), moments(rule, tree(1.0))
    for _ in range(2):
        params, state, change = update(rule, params, state, tree(1.0), Rates(7.0, 7.0, 0.0))
    assert float(params["conv1"]["kernel"][0]) == pytest.approx(1 - 0.1 - 0.19)
    assert float(change["conv1"]["kernel"][0]) == pytest.approx(-0.19)


def schedule_of(config: OptimConfig, epochs: list[float]) -> list[tuple[float, float]]:
    return [(rate.weights, rate.biases) for rate in (rates(config, epoch, Progress()) for epoch in epochs)]


def test_the_staircase_is_that_of_run_170() -> None:
    optim = presets.preset("cuda_convnet").optim
    levels = [(0.01, 0.02), (0.0015874, 0.02), (0.00025198, 0.002), (4e-5, 0.002), (4e-5, 0.002)]
    for found, expected in zip(schedule_of(optim, [0, 22.5, 45, 67.5, 120]), levels, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert schedule_of(optim, [22.49])[0][0] == 0.01
    assert [rates(optim, epoch, Progress()).conv1 for epoch in (73.99, 74)] == [1.0, 0.0]


def test_the_schedules_steps_and_constant() -> None:
    steps = OptimConfig(rate=1.0, schedule=Schedule("steps", epochs=(2, 5)), bias_schedule=Schedule("constant"))
    found = schedule_of(steps, [0, 1.99, 2, 4.9, 5, 80])
    assert [weights for weights, _ in found] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert {biases for _, biases in found} == {1.0}
    one = OptimConfig(rate=1.0, schedule=Schedule("staircase", stairs=1))
    assert schedule_of(one, [0, 45, 90]) == [(1.0, 1.0)] * 3, "a staircase with one level"


def test_the_cosine_schedule_and_the_warmup() -> None:
    cosine = OptimConfig(rate=1.0, epochs=12.0, schedule=Schedule("cosine", warmup=2.0))
    found = schedule_of(cosine, [0, 0.5, 2, 7, 12, 13])
    assert [weights for weights, _ in found] == pytest.approx([0, 0.25, 1, 0.5, 0, 0])
    assert [biases for _, biases in found] == [weights for weights, _ in found], "the biases' schedule is the weights'"
    plain = OptimConfig(rate=1.0, epochs=10.0, schedule=Schedule("cosine"))
    assert [w for w, _ in schedule_of(plain, [0, 2.5, 5, 10])] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, 0])
    steps = OptimConfig(rate=1.0, schedule=Schedule("steps", epochs=(1, 4), warmup=2.0))
    assert [w for w, _ in schedule_of(steps, [0.5, 1, 2, 4])] == pytest.approx([0.25, 0.05, 0.1, 0.01])


def test_a_plateau_drops_the_rate_when_the_error_stops_falling_and_three_times_at_most() -> None:
    schedule, plateau, drops = Schedule("plateau", patience=2), Plateau(), []
    for error in (0.9, 0.8, 0.8, 0.85, 0.79, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8):
        plateau.see(error, schedule)
        drops.append(plateau.drops)
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    optim = OptimConfig(rate=1.0, schedule=schedule, bias_schedule=Schedule("constant"))
    assert rates(optim, 50, Progress(weights=plateau)).weights == pytest.approx(1e-3)
    assert rates(optim, 50, Progress(weights=plateau)).biases == 1.0
    own = replace(optim, bias_schedule=schedule)
    assert rates(own, 50, Progress(biases=plateau))[:2] == pytest.approx((1.0, 1e-3)), "each counts its own drops"
    again = Progress.from_json(Progress(weights=plateau, window={"loss": 0.1}).to_json())
    assert again == Progress(weights=plateau, window={"loss": 0.1})


def trainer(config: Config) -> Any:
    forward = alexnet.forward(config.model)
    return make_train_step(forward, lambda images, key, noise: images.astype(jnp.float32) - 127, config.optim)


def test_a_small_network_overfits_eight_images_and_compiles_once(tiny: Config) -> None:
    config = replace(tiny, model=replace(tiny.model, dropout=0.0))
    step = trainer(config)
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    label = np.arange(8) % 3
    state = new_state(alexnet.init(config.model, jax.random.key(0)), config.optim)
    losses = []
    for _ in range(120):
        state, metrics = step(state, images, label, jax.random.key(1), Rates(0.01, 0.01, 1.0), 0.0)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 0.9
    assert losses[-1] < 0.02
    assert float(metrics["top1_error"]) == 0
    assert int(state.step) == 120
    assert step._cache_size() == 1


def test_the_update_norm_is_the_norm_of_the_change_of_the_parameters() -> None:
    params = {"fc8": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}
    images, label, key = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0]), jax.random.key(0)

    def forward(params: Any, images: jax.Array, **_: Any) -> jax.Array:
        return images @ params["fc8"]["kernel"] + params["fc8"]["bias"].reshape(1, -1)

    step = make_train_step(forward, lambda images, *_: images, OptimConfig())
    after, metrics = step(new_state(params, OptimConfig()), images, label, key, Rates(0.1, 0.2, 1.0), 0.0)
    before = {"fc8": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}
    change = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, before))
    assert float(metrics["update_norm"]) == pytest.approx(float(change), rel=1e-5)


def test_a_step_depends_only_on_its_number_and_the_key(tiny: Config) -> None:
    """Dropout differs between steps and between keys, and is the same for the same step and key."""
    step, params = trainer(tiny), alexnet.init(tiny.model, jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)

    def loss(number: int, seed: int) -> float:
        fresh = jax.tree.map(jnp.copy, new_state(params, tiny.optim)._replace(step=jnp.int32(number)))
        return float(step(fresh, images, np.arange(8) % 3, jax.random.key(seed), Rates(0.1, 0.1, 1.0), 0.0)[1]["loss"])

    assert loss(0, 1) == loss(0, 1)
    assert len({loss(0, 1), loss(1, 1), loss(0, 2)}) == 3


def test_errors_average_probabilities_over_crops_and_ignore_padding() -> None:
    """Seven classes. The second view is more certain about image 1 and changes the answer."""
    logits = np.zeros((2, 4, 7), np.float32)
    logits[0, 0, 3] = 5  # right
    logits[0, 1, 2], logits[1, 1, 4] = 1, 9  # wrong, then right
    logits[:, 2] = -np.arange(7)  # the right class is fifth
    logits[:, 3] = -np.arange(7)  # padding
    label, weight = np.array([3, 4, 4, 6]), np.array([1, 1, 1, 0], np.float32)
    sums = make_error_sums(make_probabilities(lambda params, view: view, lambda images, n: jnp.asarray(logits)[n]))
    one = sums(None, np.zeros(4), label, weight, 1)
    two = sums(None, np.zeros(4), label, weight, 2)
    assert (float(one["top1_error"]), float(one["top5_error"]), float(one["examples"])) == (2, 0, 3)
    assert (float(two["top1_error"]), float(two["top5_error"]), float(two["examples"])) == (1, 0, 3)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(probabilities.mean(axis=0)[np.arange(3), label[:3]]).sum()
    assert float(two["loss"]) == pytest.approx(expected, rel=1e-5)
    last = sums(None, np.zeros(4), np.array([3, 4, 6, 6]), weight, 1)
    assert float(last["top5_error"]) == 1


def test_the_loss_of_a_class_with_probability_0_is_finite() -> None:
    logits = np.array([[0.0, 200.0, 0.0]], np.float32)
    sums = make_error_sums(make_probabilities(lambda params, view: view, lambda images, n: jnp.asarray(logits)))
    loss = float(sums(None, np.zeros(1), np.array([0]), np.ones(1, np.float32), 1)["loss"])
    assert loss == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)


def test_the_share_of_time_spent_waiting_for_data_is_logged(tmp_path: Path) -> None:
    """Three steps that wait for their images and three that compute."""

    def batches(seconds: float) -> Iterator[int]:
        while True:
            time.sleep(seconds)
            yield 0

    with Log(tmp_path, 0) as log, ProgressBar(Console(quiet=True), 0, 6) as bar:
        watch = Watch({}, log, bar, batch=8, examples=48, log_every=3)
        for step, (wait, work) in enumerate([(0.05, 0.0)] * 3 + [(0.0, 0.05)] * 3, 1):
            watch.next_of(batches(wait))
            time.sleep(work)
            watch.follow(step, {"loss": 1.0, "top1_error": 0.5, "update_norm": 0.1}, 0.01)
            watch.settle()
    waited = [json.loads(line)["data_wait"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(waited) == 2
    assert waited[0] > 0.7
    assert waited[1] < 0.3


def test_the_progress_bar_shows_figures_from_the_first_step_on(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    with Log(tmp_path, 0) as log, ProgressBar(console, 0, 2) as bar:
        watch = Watch({}, log, bar, batch=8, examples=48, log_every=10)
        watch.follow(1, {"loss": 1.25, "top1_error": 0.5, "update_norm": 0.1}, 0.01)
        watch.settle()
    assert "loss 1.250  error 0.500" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "compiling" not in console.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2)])
def test_a_step_keeps_the_layout_of_the_state_and_compiles_once(tiny: Config, sizes: tuple[int, int]) -> None:
    mesh, model = alexnet.make_mesh(*sizes), tiny.model

    def create(key: jax.Array) -> State:
        return new_state(alexnet.init(model, key), tiny.optim)

    layout = layout_of(jax.eval_shape(create, jax.random.key(0)), mesh, own=False)
    state = jax.jit(create, out_shardings=layout)(jax.random.key(0))
    step = make_train_step(alexnet.forward(model, mesh), lambda images, *_: images, tiny.optim)
    images = np.zeros((8, model.image_size, model.image_size, model.channels), np.float32)
    batch = columns.shard_batch({"image": images, "label": np.zeros(8, np.int32)}, mesh, 8)
    for _ in range(2):
        state, _ = step(state, batch["image"], batch["label"], jax.random.key(1), Rates(0.1, 0.1, 1.0), 1.0)
    assert step._cache_size() == 1  # type: ignore[attr-defined]
