"""fit: a whole run in one call, with the parts of the config and with the caller's own."""

import json
import os
import runpy
import shutil
import signal
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
from alexnet_jax.data import writing
from alexnet_jax.data.records import EMBEDDED, TRAIN, VALIDATION, Records
from alexnet_jax.networks import columns
from alexnet_jax.training import checkpoint
from alexnet_jax.training.fit import about
from alexnet_jax.training.meter import Meter
from alexnet_jax.training.step import make_train_step

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def fitted(tiny: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that ends shortly after its first epoch, on two devices."""
    mesh = alexnet.make_mesh(1, 2)
    return alexnet.fit(
        tiny, tmp_path_factory.mktemp("runs") / "run", tiny_data, mesh, steps=8, log_every=4, progress=False
    )


def same(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_fit_returns_what_it_writes(fitted: Any, tiny: Config) -> None:
    assert fitted.config == tiny
    assert [line["step"] for line in fitted.metrics] == [4, 6, 8]
    assert fitted.metrics == [json.loads(line) for line in (fitted.path / "metrics.jsonl").read_text().splitlines()]
    config, params = alexnet.load(fitted.path)
    assert config == tiny
    assert same(params, fitted.params)
    assert fitted.params["conv2"]["kernel"].sharding.spec[-1] == columns.COLUMN


def test_the_commands_give_the_same_numbers_as_fit_and_evaluate(
    fitted: Any, tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """To the bit, and fit continues the run of the command."""
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


def test_fit_and_evaluate_print_nothing_without_progress(
    fitted: Any, tiny: Config, tiny_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = alexnet.fit(tiny, fitted.path, tiny_data, alexnet.make_mesh(1, 2), steps=8, progress=False)
    assert same(again.params, fitted.params), "the run was complete"
    alexnet.evaluate(fitted.path, crops=1, progress=False)
    assert capfd.readouterr() == ("", "")


def test_fit_refuses_bad_input(fitted: Any, tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run with another config: seed \(was 0, now 1\)"):
        alexnet.fit(replace(tiny, seed=1), fitted.path, tiny_data, progress=False)
    with pytest.raises(BadInput, match="steps and log_every are at least 1"):
        alexnet.fit(tiny, tmp_path / "run", tiny_data, steps=0, progress=False)
    with pytest.raises(BadInput, match="there is no data directory"):
        alexnet.fit(tiny, tmp_path / "run", tmp_path / "nothing", progress=False)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------------- the loop


def linear_fit(config: Config, path: Path, data: Path, steps: int | None = None, **more: Any) -> Any:
    """A run of a network that compiles quickly."""
    return alexnet.fit(
        plain(config), path, data, steps=steps, init=linear_init, forward=linear, log_every=1, progress=False, **more
    )


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every training step."""
    calls: list[dict[str, Any]] = []

    def make(*parts: Any) -> Any:
        step = make_train_step(*parts)

        def watched(state: Any, images: Any, label: Any, key: Any, rates: Any, noise: Any) -> Any:
            kernel = np.array(state.params["deep"]["er"]["kernel"])
            calls.append({"kernel": kernel, "images": np.array(images), "key": key, "rates": rates, "noise": noise})
            return step(state, images, label, key, rates, noise)

        return watched

    monkeypatch.setattr("alexnet_jax.training.fit.make_train_step", make)
    return calls


def test_each_step_gets_the_rates_and_the_noise_of_its_epoch(
    tiny: Config, tiny_data: Path, tmp_path: Path, taken: list[dict[str, Any]]
) -> None:
    """A step takes 8 of 44 images, so epoch 2 begins with step 11."""
    optim = replace(tiny.optim, schedule=Schedule("steps", epochs=(1.0,)), freeze_conv1=2.0)
    data = replace(tiny.data, colour_noise="stdev", colour_noise_until=2.0)
    linear_fit(replace(tiny, optim=optim, data=data), tmp_path / "run", tiny_data, 13)
    assert [call["noise"] for call in taken] == [1.0] * 11 + [0.0] * 2
    assert [call["rates"].conv1 for call in taken] == [1.0] * 11 + [0.0] * 2
    weights = [call["rates"].weights / optim.rate for call in taken]
    assert weights == pytest.approx([1.0] * 6 + [0.1] * 7), "the first step of epoch 1 is step 6"


def test_the_seed_decides_weights_order_and_random_draws(
    tiny: Config, tiny_data: Path, tmp_path: Path, taken: list[dict[str, Any]]
) -> None:
    for seed in (0, 1):
        linear_fit(replace(tiny, seed=seed), tmp_path / str(seed), tiny_data, 1)
    first, other = taken
    assert not np.isclose(first["kernel"], other["kernel"]).any()
    assert not np.array_equal(first["images"], other["images"])
    assert not np.array_equal(*(jax.random.key_data(call["key"]) for call in taken))


def test_validation_errors_decide_the_best_checkpoint_and_the_plateaus(
    tiny: Config, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three and a half epochs: four validations, and one more with ten crops after the last step."""
    errors, crops_seen = iter([0.5, 0.2, 0.4, 0.3, 0.1]), []

    def measure(_: Any, stop: Any, params: Any, crops: int) -> dict[str, float]:
        crops_seen.append(crops)
        return {"loss": 1.0, "top1_error": next(errors), "top5_error": 0.5 / len(crops_seen)}

    monkeypatch.setattr(Meter, "measure_until", measure)
    schedules = {"schedule": Schedule("plateau", patience=1), "bias_schedule": Schedule("plateau", patience=2)}
    optim = replace(tiny.optim, epochs=3.5, **schedules)
    run = linear_fit(replace(tiny, optim=optim), tmp_path / "run", tiny_data)
    validated = [line for line in run.metrics if any(name.startswith("validation") for name in line)]
    assert [line["step"] for line in validated] == [6, 11, 17, 20, 20]
    assert crops_seen == [1, 1, 1, 1, 10]
    assert [path.name for path in (run.path / "checkpoints" / "best").iterdir()] == ["11"]
    progress = checkpoint.find(run.path).progress
    assert progress["best_error"] == 0.2
    assert (progress["weights"]["drops"], progress["biases"]["drops"]) == (2, 1)
    rates = {line["step"]: line["learning_rate"] for line in run.metrics if "learning_rate" in line}
    assert (rates[17], rates[18]) == pytest.approx((optim.rate, optim.rate / 10))


def latest(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints" / "latest").iterdir()}


def test_without_its_latest_checkpoint_a_run_continues_from_the_one_before(
    fitted: Any, tiny: Config, tiny_data: Path, tmp_path: Path
) -> None:
    """Step 6 is the best, and the run reaches it twice."""
    mesh, run = alexnet.make_mesh(1, 2), tmp_path / "run"
    for steps in (5, 6):
        alexnet.fit(tiny, run, tiny_data, mesh, steps, log_every=4, progress=False)
    assert latest(run) == {"5", "6"}
    assert [path.name for path in (run / "checkpoints" / "best").iterdir()] == ["6"]
    shutil.rmtree(run / "checkpoints" / "latest" / "6")
    again = alexnet.fit(tiny, run, tiny_data, mesh, 8, log_every=4, progress=False)
    assert same(again.params, fitted.params)
    assert [line["step"] for line in again.metrics] == [4, 6, 8]


def test_save_minutes_is_the_time_between_checkpoints(
    tiny: Config, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, seconds = checkpoint.ContinuousCheckpointingPolicy, []

    def watched(minimum_interval_secs: int) -> Any:
        seconds.append(minimum_interval_secs)
        return policy(minimum_interval_secs=minimum_interval_secs)

    monkeypatch.setattr(checkpoint, "ContinuousCheckpointingPolicy", watched)
    linear_fit(tiny, tmp_path / "run", tiny_data, 4, save_minutes=30.0)
    assert seconds == [1800]
    assert latest(tmp_path / "run") == {"1", "4"}, "the first step and the last"


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_saves_the_current_step_and_ends_the_run(
    tiny: Config, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, ends: Any
) -> None:
    """Even long before the next checkpoint is due. Afterwards the signal has its old handler again."""
    before = signal.getsignal(number)

    def make(*parts: Any) -> Any:
        step = make_train_step(*parts)

        def interrupted(state: Any, *rest: Any) -> Any:
            if int(state.step) == 2:
                os.kill(os.getpid(), number)
            return step(state, *rest)

        return interrupted

    monkeypatch.setattr("alexnet_jax.training.fit.make_train_step", make)
    with pytest.raises(ends) as raised:
        linear_fit(tiny, tmp_path / "run", tiny_data, 9, save_minutes=30.0)
    assert number != signal.SIGTERM or raised.value.code == 143
    assert latest(tmp_path / "run") == {"1", "3"}
    assert signal.getsignal(number) is before


def test_a_checkpoint_names_its_data_by_an_absolute_path(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for the embedded images, which have another path on every machine."""
    monkeypatch.chdir(tiny_data.parent)
    assert about(Records(Path(tiny_data.name)))["path"] == str(tiny_data)
    assert about(Records(EMBEDDED))["path"] is None


# ----------------------------------------------------------------------------------------------- the caller's parts


def linear_init(key: jax.Array) -> dict[str, Any]:
    return {"deep": {"er": {"kernel": 1e-3 * jax.random.normal(key, (784, 3)), "bias": jnp.zeros(3)}}}


def linear(params: Any, images: jax.Array, *, key: Any = None, train: bool = False) -> jax.Array:
    own = params["deep"]["er"]
    return images.reshape(len(images), -1) / 255 @ own["kernel"] + own["bias"].reshape(1, -1)


def plain(tiny: Config) -> Config:
    """A config that names no layer of AlexNet."""
    return replace(tiny, optim=replace(tiny.optim, layer_rates=()))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (2, 2)])
def test_the_callers_network_trains_resumes_and_is_evaluated_on_any_mesh(
    tiny: Config, tiny_data: Path, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    """With the same numbers as on one device."""
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
    assert figures["top1_error"] < 0.5, "the network must tell three grey levels apart"
    config_there, params = alexnet.load(whole.path)
    assert same(params, jax.device_get(whole.params))
    assert config_there == whole.config


def test_a_run_of_the_callers_network_is_refused_without_its_code(
    tiny: Config, tiny_data: Path, tmp_path: Path
) -> None:
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


def test_a_network_of_the_caller_that_does_not_fit_is_refused(tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
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


def test_the_callers_optimiser_replaces_the_rule(tiny: Config, tiny_data: Path, tmp_path: Path) -> None:
    """With the columns on two devices. The moments of a parameter are sharded as the parameter is."""
    mesh = alexnet.make_mesh(1, 2)

    def fit(name: str, steps: int, optimiser: Any) -> Any:
        return alexnet.fit(
            tiny, tmp_path / name, tiny_data, mesh, steps, optimiser=optimiser, log_every=2, progress=False
        )

    adam = optax.adam(1e-3)
    fit("a", 3, adam)
    whole, resumed = fit("b", 5, adam), fit("a", 5, adam)
    assert same(whole.params, resumed.params)
    assert "learning_rate" not in whole.metrics[0], "only the optimiser knows its rate"
    assert whole.config.own == (("optimiser", "ScaleByAdamState EmptyState"),)
    with pytest.raises(BadInput, match="ScaleByAdamState EmptyState"):
        fit("a", 6, optax.sgd(0.1))
    rule = replace(tiny.optim, rule="adam", rate=1e-3, decay=0.0, layer_rates=(), schedule=Schedule("constant"))
    by_rule = alexnet.fit(
        replace(tiny, optim=replace(rule, bias_schedule=None)), tmp_path / "c", tiny_data, mesh, 5, progress=False
    )
    for x, y in zip(jax.tree.leaves(by_rule.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_the_state_of_an_optimiser_is_sharded_as_the_parameters_are() -> None:
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


def test_the_callers_init_sets_the_weights_of_the_configs_network(
    tiny: Config, tiny_data: Path, tmp_path: Path
) -> None:
    def doubled(key: jax.Array) -> Any:
        return jax.tree.map(lambda x: 2 * x, alexnet.init(tiny.model, key))

    still = replace(tiny, optim=replace(tiny.optim, rate=1e-30))
    run = alexnet.fit(still, tmp_path / "run", tiny_data, steps=1, init=doubled, progress=False)
    same_key = jax.random.split(jax.random.key(tiny.seed))[0]
    np.testing.assert_allclose(
        run.params["fc6"]["kernel"], 2 * alexnet.init(tiny.model, same_key)["fc6"]["kernel"], rtol=1e-6
    )


# --------------------------------------------------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def some_embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the embedded images."""
    embedded, directory = Records(EMBEDDED), tmp_path_factory.mktemp("data") / "some"
    splits = {}
    for split, count in ((TRAIN, 128), (VALIDATION, 40)):
        few = embedded.gather(split, np.arange(count))
        splits[split] = list(zip(few["image"], map(int, few["label"]), strict=True))
    writing.write(directory, splits, embedded.classes, embedded.meta["source"])
    return directory


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, some_embedded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unchanged, but with two steps per run and fewer embedded images."""
    monkeypatch.setattr("alexnet_jax.training.fit.EMBEDDED", some_embedded)
    monkeypatch.setattr("alexnet_jax.training.meter.EMBEDDED", some_embedded)
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
