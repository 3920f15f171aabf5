"""A whole run in one call, with the config's parts and with the caller's own."""

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import run_command

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config, Schedule
from alexnet_jax.networks import columns

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def fitted(tiny: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a few steps beyond its first epoch, on two devices."""
    mesh = alexnet.make_mesh(1, 2)
    return alexnet.fit(
        tiny, tmp_path_factory.mktemp("runs") / "run", tiny_data, mesh, steps=8, log_every=4, progress=False
    )


def same(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_a_run_gives_back_what_it_left(fitted: Any, tiny: Config) -> None:
    assert fitted.config == tiny
    assert [line["step"] for line in fitted.metrics] == [4, 6, 8]
    assert fitted.metrics == [json.loads(line) for line in (fitted.path / "metrics.jsonl").read_text().splitlines()]
    config, params = alexnet.load(fitted.path)
    assert config == tiny
    assert same(params, fitted.params)
    assert fitted.params["conv2"]["kernel"].sharding.spec[-1] == columns.COLUMN


def test_the_command_is_a_shell_around_it(fitted: Any, tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    """The same parameters to the bit, and each goes on with the other's run."""
    common = ("--data", tiny_data, "--workdir", tmp_path / "run", "--log-every", 4, "--mesh", "1,2")
    assert run_command("train", tiny_file, *common, "--steps", 5).code == 0
    on = alexnet.fit(
        fitted.config, tmp_path / "run", tiny_data, alexnet.make_mesh(1, 2), 8, log_every=4, progress=False
    )
    assert same(on.params, fitted.params)
    figures = alexnet.evaluate(fitted.path, crops=1, mesh=alexnet.make_mesh(1, 2), progress=False)
    said = json.loads(run_command("evaluate", fitted.path, "--crops", 1, "--json", "--mesh", "1,2").out)
    assert figures == {name: said[name] for name in ("top1_error", "top5_error", "loss", "examples")}
    assert figures["examples"] == 21


def test_it_can_be_silent(fitted: Any, tiny: Config, tiny_data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    again = alexnet.fit(tiny, fitted.path, tiny_data, alexnet.make_mesh(1, 2), steps=8, progress=False)
    assert same(again.params, fitted.params), "nothing was left to do"
    alexnet.evaluate(fitted.path, crops=1, progress=False)
    assert capfd.readouterr() == ("", "")


def test_it_refuses_as_the_command_does(fitted: Any, tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run with another config: seed \(was 0, now 1\)"):
        alexnet.fit(replace(tiny, seed=1), fitted.path, tiny_data, progress=False)
    with pytest.raises(BadInput, match="steps and log_every are at least 1"):
        alexnet.fit(tiny, tmp_path / "run", tiny_data, steps=0, progress=False)
    with pytest.raises(BadInput, match="there is no data directory"):
        alexnet.fit(tiny, tmp_path / "run", tmp_path / "nothing", progress=False)
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------- own parts


def linear_init(key: jax.Array) -> dict[str, Any]:
    return {"deep": {"er": {"kernel": 1e-3 * jax.random.normal(key, (784, 3)), "bias": jnp.zeros(3)}}}


def linear(params: Any, images: jax.Array, *, key: Any = None, train: bool = False) -> jax.Array:
    own = params["deep"]["er"]
    return images.reshape(len(images), -1) / 255 @ own["kernel"] + own["bias"].reshape(1, -1)


def plain(tiny: Config) -> Config:
    """A config that names no layer of AlexNet's."""
    return replace(tiny, optim=replace(tiny.optim, layer_rates=()))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (2, 2)])
def test_an_own_network_trains_resumes_and_is_evaluated_on_any_mesh(
    tiny: Config, tiny_data: Path, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    """The same run as by hand: the update of section 5 on the loss of each batch."""
    mesh, config = alexnet.make_mesh(*sizes), plain(tiny)

    def fit(name: str, steps: int) -> Any:
        return alexnet.fit(
            config, tmp_path / name, tiny_data, mesh, steps, init=linear_init, forward=linear, progress=False
        )

    fit("a", 7)
    whole, resumed = fit("b", 12), fit("a", 12)
    assert same(whole.params, resumed.params)
    assert whole.config.own == (("init", "linear_init"), ("forward", "linear"))
    assert whole.params["deep"]["er"]["kernel"].sharding.is_fully_replicated
    one = alexnet.fit(config, tmp_path / "one", tiny_data, None, 12, init=linear_init, forward=linear, progress=False)
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    figures = alexnet.evaluate(whole.path, mesh=mesh, forward=linear, progress=False)
    assert figures["top1_error"] < 0.5, "three grey levels are told apart"
    config_there, params = alexnet.load(whole.path)
    assert same(params, jax.device_get(whole.params))
    assert config_there == whole.config


def test_the_code_of_a_run_is_asked_for(tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    config, run = plain(tiny), tmp_path / "run"
    own: dict[str, Any] = {"init": linear_init, "forward": linear}
    alexnet.fit(config, run, tiny_data, steps=1, progress=False, **own)
    with pytest.raises(BadInput, match=r"own \(was \(\('init', 'linear_init'\), \('forward', 'linear'\)\), now \(\)\)"):
        alexnet.fit(tiny, run, tiny_data, steps=2, progress=False)
    with pytest.raises(BadInput, match="holds a network that is not in this package, linear; evaluate it from Python"):
        alexnet.evaluate(run, progress=False)
    assert "not in this package, linear" in run_command("evaluate", run).refused
    assert "not in this package, linear" in run_command("predict", run, "image.png").refused
    assert "not in this package, linear" in run_command("convert", run, tmp_path / "run.stablehlo").refused

    def linear_init_of_another(key: jax.Array) -> dict[str, Any]:
        return {"deep": {"er": {"kernel": jnp.zeros((784, 3)), "bias": jnp.zeros(3), "scale": jnp.zeros(())}}}

    linear_init_of_another.__name__ = "linear_init"
    with pytest.raises(BadInput, match="run"):
        alexnet.fit(config, run, tiny_data, steps=2, progress=False, init=linear_init_of_another, forward=linear)


def test_what_an_own_network_must_be_is_said(tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    def fit(**own: Any) -> Any:
        return alexnet.fit(plain(tiny), tmp_path / "run", tiny_data, steps=1, progress=False, **own)

    with pytest.raises(
        BadInput, match=r"forward returns \(8, 784\) for 8 images; return logits \[B, classes\], here \(8, 3\)"
    ):
        fit(init=linear_init, forward=lambda params, images, **_: images.reshape(8, -1))
    with pytest.raises(BadInput, match="init returns a tuple; return nested dicts of arrays"):
        fit(init=lambda key: (jnp.zeros(3),), forward=linear)
    with pytest.raises(BadInput, match=r"optim\.layer_rates names 'conv1'; the network's layers are deep"):
        alexnet.fit(tiny, tmp_path / "run", tiny_data, init=linear_init, forward=linear, progress=False)
    assert not (tmp_path / "run").exists()


def test_an_own_optimiser_takes_the_place_of_the_rule(tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    """With the columns on two devices: what it remembers of a parameter lies as the parameter does."""
    mesh = alexnet.make_mesh(1, 2)

    def fit(name: str, steps: int, optimiser: Any) -> Any:
        return alexnet.fit(
            tiny, tmp_path / name, tiny_data, mesh, steps, optimiser=optimiser, log_every=2, progress=False
        )

    adam = optax.adam(1e-3)
    fit("a", 3, adam)
    whole, resumed = fit("b", 5, adam), fit("a", 5, adam)
    assert same(whole.params, resumed.params)
    assert "learning_rate" not in whole.metrics[0], "it is the optimiser's own"
    assert whole.config.own == (("optimiser", "ScaleByAdamState EmptyState"),)
    with pytest.raises(BadInput, match="ScaleByAdamState EmptyState"):
        fit("a", 6, optax.sgd(0.1))
    rule = replace(tiny.optim, rule="adam", rate=1e-3, decay=0.0, layer_rates=(), schedule=Schedule("constant"))
    by_rule = alexnet.fit(
        replace(tiny, optim=replace(rule, bias_schedule=None)), tmp_path / "c", tiny_data, mesh, 5, progress=False
    )
    for x, y in zip(jax.tree.leaves(by_rule.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_memory_of_an_optimiser_lies_as_its_parameters() -> None:
    mesh = alexnet.make_mesh(1, 2)
    params = {"conv1": {"kernel": jnp.zeros((3, 3, 1, 4)), "bias": jnp.zeros(4)}, "fc8": {"kernel": jnp.zeros((4, 3))}}
    layout = columns.shardings(params, mesh)
    lies = columns.like(
        jax.eval_shape(optax.adafactor(1e-3, min_dim_size_to_factor=2).init, params), params, layout, mesh
    )
    shapes = jax.eval_shape(optax.adafactor(1e-3, min_dim_size_to_factor=2).init, params)
    for shape, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(lies), strict=True):
        assert place.is_fully_replicated or shape.shape in ((3, 3, 1, 4), (4,), (4, 3))
    adam = columns.like(jax.eval_shape(optax.adam(1e-3).init, params), params, layout, mesh)
    assert adam[0].mu == layout
    assert adam[0].count.is_fully_replicated


def test_own_initial_weights_of_the_config_s_network(tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    def doubled(key: jax.Array) -> Any:
        return jax.tree.map(lambda x: 2 * x, alexnet.init(tiny.model, key))

    still = replace(tiny, optim=replace(tiny.optim, rate=1e-30))
    run = alexnet.fit(still, tmp_path / "run", tiny_data, steps=1, init=doubled, progress=False)
    same_key = jax.random.split(jax.random.key(tiny.seed))[0]
    np.testing.assert_allclose(
        run.params["fc6"]["kernel"], 2 * alexnet.init(tiny.model, same_key)["fc6"]["kernel"], rtol=1e-6
    )


# --------------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As it stands, but for two steps of each run."""
    assert len(path.read_text().splitlines()) <= 30
    whole_fit: Callable[..., Any] = alexnet.fit
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alexnet, "fit", lambda *given, **more: whole_fit(*given, **more, steps=2), raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    found = runpy.run_path(str(path), run_name="__main__")
    run = found["run"]
    assert run.metrics == [] or run.metrics[-1]["step"] <= 2
    assert (tmp_path / run.path / "checkpoints" / "latest" / "2").is_dir()
    assert run.config != alexnet.preset("fashion")


def test_there_are_five_examples() -> None:
    assert {path.stem for path in EXAMPLES} == {
        "own_activation", "four_columns", "own_optimiser", "own_normalisation", "own_network",
    }  # fmt: skip
