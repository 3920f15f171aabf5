"""The commands as users run them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import CLASSES, Ended, run_command

import alexnet_jax as alexnet
from alexnet_jax.__main__ import COMMANDS
from alexnet_jax.config import Config, flat, from_json
from alexnet_jax.data import records, writing
from alexnet_jax.training.fit import advice

STEPS = 17  # ceil(3 epochs x 44 images / 8)


def train(tiny_file: Path, data: Path, run: Path, *more: object) -> Ended:
    return run_command("train", tiny_file, "--data", data, "--workdir", run, "--log-every", "4", *more)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("images_per_second", "data_wait")
    return [{name: value for name, value in line.items() if name not in times} for line in lines]


def assert_same_parameters(a: Path, b: Path) -> None:
    for x, y in zip(jax.tree.leaves(alexnet.load(a)[1]), jax.tree.leaves(alexnet.load(b)[1]), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole(tiny_file: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A run that was not interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    return run, train(tiny_file, tiny_data, run)


def test_a_run_leaves_config_metrics_checkpoints_and_tensorboard_files(whole: tuple[Path, Ended], tiny: Config) -> None:
    run, ended = whole
    assert ended.code == 0, ended.err
    assert from_json((run / "config.json").read_text()) == tiny
    lines = metrics(run)
    training = [line for line in lines if "train/loss" in line]
    validation = [line for line in lines if "validation/loss" in line]
    assert [line["step"] for line in training] == [4, 8, 12, 16]
    assert [line["step"] for line in validation] == [6, 11, 17], "the steps that end an epoch of 44 images"
    assert set(training[0]) == {
        "step", "epoch", "train/loss", "train/top1_error", "learning_rate", "images_per_second", "data_wait",
    }  # fmt: skip
    assert all(0 <= line["data_wait"] <= 1 for line in training)
    assert training[0]["epoch"] == pytest.approx(32 / 44)
    assert set(validation[0]) == {"step", "epoch", "validation/loss", "validation/top1_error", "validation/top5_error"}
    errors = [line[name] for line in validation for name in line if name.endswith("_error")]
    assert all(0 <= error <= 1 for error in errors)
    assert validation[-1]["validation/top5_error"] == 0, "three classes"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"latest", "best"}
    assert list((run / "tensorboard").iterdir())
    for shown in ("conv5", "all columns", "optim.epochs", "validation, ten crops"):
        assert shown in ended.out


def test_repeating_the_command_of_a_complete_run_does_nothing(
    whole: tuple[Path, Ended], tiny_file: Path, tiny_data: Path
) -> None:
    before = (whole[0] / "metrics.jsonl").read_bytes()
    again = train(tiny_file, tiny_data, whole[0])
    assert (again.code, "nothing is left to do" in again.out) == (0, True)
    assert (whole[0] / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("stops", [(7,), (4, 11)])
def test_an_interrupted_run_equals_one_that_was_not(
    whole: tuple[Path, Ended], tiny_file: Path, tiny_data: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Stops in the middle of an epoch and between two log lines, at a log line, and at the end of an epoch."""
    for stop in stops:
        assert train(tiny_file, tiny_data, tmp_path / "run", "--steps", stop).code == 0
    assert train(tiny_file, tiny_data, tmp_path / "run", "--save-minutes", 0).code == 0
    assert without_times(metrics(tmp_path / "run")) == without_times(metrics(whole[0]))
    assert_same_parameters(tmp_path / "run", whole[0])
    assert_same_parameters(tmp_path / "run" / "checkpoints" / "best", whole[0] / "checkpoints" / "best")


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"alexnet_jax.{name}", *map(str, arguments)]


def start(tiny_file: Path, data: Path, run: Path) -> subprocess.Popen[str]:
    """A very long run in a process of its own. Returns once it has saved at least twice."""
    process = subprocess.Popen(
        command("train", tiny_file, "--data", data, "--workdir", run, "--save-minutes", 0, "--steps", 100_000,
                "--optim.epochs", 20_000, "--log-every", 4),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},  # as in this process; the last bits depend on it
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) > 12:
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_killed_run_continues_to_the_same_result(tiny_file: Path, tiny_data: Path, tmp_path: Path, how: int) -> None:
    run = tmp_path / "run"
    process = start(tiny_file, tiny_data, run)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + how, err
        assert "Interrupted at step" in out
    saved = max(int(path.name) for path in (run / "checkpoints" / "latest").iterdir() if path.name.isdigit())
    assert saved > 1
    more = ("--optim.epochs", 20_000, "--steps", saved + 9)
    assert train(tiny_file, tiny_data, run, *more).code == 0
    assert train(tiny_file, tiny_data, tmp_path / "straight", *more).code == 0
    assert_same_parameters(run, tmp_path / "straight")
    assert without_times(metrics(run)) == without_times(metrics(tmp_path / "straight"))


def test_a_checkpoint_can_be_restored_on_any_layout(whole: tuple[Path, Ended], tiny: Config) -> None:
    config, params = alexnet.load(whole[0])
    assert config == tiny
    mesh = alexnet.make_mesh(2, 2)
    there = alexnet.load(whole[0], mesh)[1]
    assert there["conv2"]["kernel"].sharding.shard_shape((3, 3, 4, 8)) == (3, 3, 4, 4)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(x, y)
    images = np.random.default_rng(0).normal(0, 60, (4, 28, 28, 1)).astype(np.float32)
    np.testing.assert_allclose(
        alexnet.forward(config.model)(params, images),
        alexnet.forward(config.model, mesh)(there, images),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    best = next((whole[0] / "checkpoints" / "best").iterdir())
    assert alexnet.load(best)[0] == config


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [
        ("1,1", "columns"),
        ("1,2", "columns"),
        ("2,2", "columns"),
        ("2,1", "hybrid"),
        ("4,1", "hybrid"),
        ("2,2", "hybrid"),
    ],
)
def test_every_layout_trains_alike(
    whole: tuple[Path, Ended], tiny_file: Path, tiny_data: Path, tmp_path: Path, mesh: str, layout: str
) -> None:
    """Including data, crops, flips and dropout. `whole` ran on two devices; in mid-epoch the run changes its layout."""
    moved = ("4,1", "hybrid") if layout == "columns" else ("1,2", "columns")
    for steps, (sizes, word) in {4: (mesh, layout), 8: moved}.items():
        options = ("--mesh", sizes, "--layout", word, "--steps", steps)
        ended = train(tiny_file, tiny_data, tmp_path / "run", *options)
        assert ended.code == 0, ended.err
        assert ("(cpu, hybrid)" in ended.out) == (word == "hybrid")
    here, there = metrics(tmp_path / "run"), metrics(whole[0])
    assert [line["step"] for line in here] == [4, 6, 8]
    for a, b in zip(here, there, strict=False):
        assert a["step"] == b["step"]
        name = "train/loss" if "train/loss" in a else "validation/loss"
        assert a[name] == pytest.approx(b[name], rel=1e-4)


@pytest.mark.parametrize("crops", [1, 10])
def test_evaluate_counts_every_example_once(whole: tuple[Path, Ended], tiny_data: Path, crops: int) -> None:
    """Against probabilities that this test averages over the crops itself."""
    ended = run_command("evaluate", whole[0], "--crops", crops, "--json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out)
    assert (figures["examples"], figures["crops"], figures["step"]) == (21, crops, STEPS)
    config, params = alexnet.load(whole[0])
    data = records.Records(tiny_data)
    batch = data.gather(records.VALIDATION, np.arange(21))
    padded = np.pad(batch["image"] - data.statistics.mean_HWC, ((0, 0), (2, 2), (2, 2), (0, 0)))
    corners = [(2, 2)] if crops == 1 else [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]
    views = [padded[:, top : top + 28, left : left + 28] for top, left in corners]
    views += [view[:, :, ::-1] for view in views] if crops == 10 else []
    forward = alexnet.forward(config.model)
    probability = np.mean([jax.nn.softmax(forward(params, np.ascontiguousarray(view))) for view in views], axis=0)
    assert figures["top1_error"] == pytest.approx(np.mean(probability.argmax(1) != batch["label"]), abs=1e-6)
    loss = -np.log(probability[np.arange(21), batch["label"]]).mean()
    assert figures["loss"] == pytest.approx(loss, rel=1e-5), "one crop and ten differ by 3e-4 here"


def test_evaluate_names_the_data_and_the_errors(whole: tuple[Path, Ended]) -> None:
    ended = run_command("evaluate", whole[0], "--crops", 1)
    assert ended.code == 0
    assert "on 21 validation images of " in ended.out
    assert "top-1 error" in ended.out


def test_a_run_starts_from_the_fitting_layers_of_another_run(
    whole: tuple[Path, Ended], tiny: Config, tiny_file: Path, tmp_path: Path
) -> None:
    """Fine-tuning on other classes with a sixth convolution. Afterwards the run continues from its own weights."""
    six = tmp_path / "six.py"
    sixth = "CONFIG = replace(CONFIG, model=replace(CONFIG.model, conv6=Conv(8, 3, padding=(1, 1), std=0.2)))\n"
    six.write_text(tiny_file.read_text() + "\nfrom dataclasses import replace\n\n" + sixth)
    data, run = other_classes(tmp_path), tmp_path / "run"
    first = ("--data", data, "--workdir", run, "--steps", 1, "--optim.rate", 1e-12, "--optim.batch", 3)
    ended = run_command("train", six, *first, "--init", whole[0])
    assert ended.code == 0, ended.err
    assert f"Taken from {whole[0]}: conv1, conv2, conv3, conv4, conv5, fc6, fc7." in ended.out
    assert "New: conv6; not among them." in ended.out
    assert "New: fc8; it was trained on other classes." in ended.out
    assert "another model" not in ended.out
    assert (run / "checkpoints" / "latest" / "0").is_dir(), "the run can continue from its initial weights"
    trained, tuned = alexnet.load(whole[0])[1], alexnet.load(run)[1]
    for layer in ("conv1", "conv5", "fc7"):
        np.testing.assert_allclose(tuned[layer]["kernel"], trained[layer]["kernel"], rtol=1e-6)
    assert not np.allclose(tuned["fc8"]["kernel"], trained["fc8"]["kernel"])
    again = run_command("train", six, *first[:4], "--steps", 2, *first[6:], "--init", tmp_path / "nothing")
    assert again.code == 0, "a run that has begun continues from its own weights"
    assert "is ignored" in again.out
    refused = run_command("train", "--init", whole[0], "--workdir", tmp_path / "other").refused
    assert (
        "has no layer that fits fashion (conv1: its kernel is 5x5x1x8 in the trained network and 5x5x1x32 in" in refused
    )


def test_a_run_whose_loss_does_not_fall_recommends_diagnose(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Once, after the first of its two epochs, and only if the loss is no better than guessing."""
    still = train(tiny_file, tiny_data, tmp_path / "run", "--optim.rate", 1e-12, "--steps", 11)
    assert still.out.count(f"python -m alexnet_jax.diagnose {tmp_path / 'run'} --data {tiny_data} says why") == 1
    assert "no better than guessing, which gives 1.099" in still.out
    assert advice(1.08, 3, tmp_path, tiny_data) is None


def test_the_tutorial_trains_and_resumes_with_adam(tiny_data: Path, tmp_path: Path) -> None:
    """The interrupted run and the other end with the same parameters."""
    narrow = [f"--model.{layer}={width}" for layer, width in (
        ("conv1.kernels", 4), ("conv2.kernels", 4), ("conv3.kernels", 4), ("fc1.units", 8), ("fc2.units", 8),
    )]  # fmt: skip
    common = ("tutorial", "--data", tiny_data, "--optim.batch", 8, *narrow)
    assert run_command("train", *common, "--workdir", tmp_path / "a", "--steps", 5).code == 0
    assert run_command("train", *common, "--workdir", tmp_path / "b", "--steps", 2).code == 0
    assert run_command("train", *common, "--workdir", tmp_path / "b", "--steps", 5).code == 0
    assert_same_parameters(tmp_path / "a", tmp_path / "b")
    evaluated = run_command("evaluate", tmp_path / "a", "--json", "--crops", 1)
    assert json.loads(evaluated.out)["examples"] == 21


def other_classes(tmp_path: Path) -> Path:
    examples = [(np.zeros((28, 28, 1), np.uint8), label) for label in range(3)]
    directory = tmp_path / "others"
    writing.write(directory, {records.TRAIN: examples, records.VALIDATION: examples}, ["x", "y", "z"], "test")
    return directory


def test_evaluate_refuses_other_classes_and_missing_checkpoints(whole: tuple[Path, Ended], tmp_path: Path) -> None:
    there = other_classes(tmp_path)
    refused = run_command("evaluate", whole[0], "--data", there).refused
    assert f"has 3 classes (x, y, z); {whole[0]}" in refused
    assert f"was trained on 3 classes ({', '.join(CLASSES)})" in refused
    assert "there is no run or checkpoint" in run_command("evaluate", tmp_path / "nothing").refused
    assert "holds no checkpoint" in run_command("evaluate", there).refused
    assert "invalid choice '5'" in run_command("evaluate", whole[0], "--crops", 5).refused


def test_bad_input_is_answered_with_one_sentence(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        return run_command("train", *arguments, "--workdir", tmp_path / "run").refused

    data = ("--data", tiny_data)
    names = "fashion, fashion_best, paper, cuda_convnet, half"
    assert f"there is no preset 'alexnet'; there are {names}" in refused("alexnet")
    assert "there is no file nothing.py" in refused("nothing.py")
    assert "--model.dropuot" in refused("fashion", "--model.dropuot", 0)
    assert "perhaps you meant --model.dropout" in refused("fashion", "--model.dropuot", 0)
    assert "--model.dropout" in refused("fashion", "--model.dropout", "much")
    assert "model.dropout is 2" in refused("fashion", "--model.dropout", 2)
    assert "there is no data directory" in refused("fashion", "--data", tmp_path / "nothing")
    assert "needs 16 devices and there are 4 (cpu); set JAX_NUM_CPU_DEVICES=16" in refused("--mesh", "8,2")
    assert "give the config first" in refused("--steps", 1, "cuda_convnet")
    assert "--mesh two is not D,C" in refused("--mesh", "two")
    assert "a batch of 63 cannot be shared by a data axis of 2" in refused("--mesh", "2,2", "--optim.batch", 63)
    assert "have 1 channel(s) and the network reads 3" in refused("cuda_convnet")
    too_small = refused("cuda_convnet", "--model.channels", 1)
    assert "are 28x28 and the network's crops 224x224; prepare larger ones with --size" in too_small
    assert "does not fit the network: conv2's 3x3 kernel reads a map of 1x1" in refused(
        "fashion", "--model.image-size", 1, "--model.conv2.padding", 0, 0
    )
    assert "optim.layer_rates names 'conv9'" in refused("fashion", "--optim.layer-rates", "conv9", 0.1)
    across = ("--model.lrn-across-columns", True, "--model.lrn.n", 99, "--mesh", "1,2")
    assert "a device holds 16 maps, and LRN across columns reads 49 of its neighbour's" in refused("fashion", *across)
    assert "there is no run or checkpoint" in refused("fashion", "--init", tmp_path / "nothing")
    assert "has 3 classes and --model.fc8.units asks for 7; leave that option out" in refused(
        "fashion", *data, "--model.fc8.units", 7
    )
    not_config = tmp_path / "other.py"
    not_config.write_text("CONFIG = 3\n")
    assert "does not define CONFIG" in refused(not_config)
    assert not (tmp_path / "run").exists(), "a refused command leaves nothing behind"


def test_a_run_directory_with_another_config_is_not_changed(
    whole: tuple[Path, Ended], tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    before = (whole[0] / "metrics.jsonl").read_bytes()
    refused = train(tiny_file, tiny_data, whole[0], "--model.dropout", 0.1, "--seed", 5).refused
    assert "model.dropout (was 0.5, now 0.1), seed (was 0, now 5)" in refused
    assert (whole[0] / "metrics.jsonl").read_bytes() == before
    (tmp_path / "mine.txt").write_text("not a run")
    assert "is not empty and not a run" in train(tiny_file, tiny_data, tmp_path).refused
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_on_other_data_is_refused(whole: tuple[Path, Ended], tiny_file: Path, tmp_path: Path) -> None:
    assert "was trained on other data" in train(tiny_file, other_classes(tmp_path), whole[0]).refused


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = train(tiny_file, tiny_data, run, "--optim.rate", 1e8, "--save-minutes", 0)
    assert "no longer finite at step" in ended.refused
    step = int(ended.err.partition("at step ")[2].split()[0])
    params = alexnet.load(run)[1]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    saved = [int(path.name) for path in (run / "checkpoints" / "latest").iterdir()]
    assert max(saved) < step
    assert all(line["step"] < step for line in metrics(run))


def test_the_number_of_classes_follows_the_data(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    ten = tmp_path / "ten.py"
    ten.write_text(
        tiny_file.read_text()
        + "\nfrom dataclasses import replace\n\nCONFIG = replace(CONFIG, model=CONFIG.model.with_classes(10))\n"
    )
    ended = run_command("train", ten, "--data", tiny_data, "--workdir", tmp_path / "run", "--steps", 1)
    assert ended.code == 0
    assert "model.fc8.units: 10 -> 3" in ended.out
    assert alexnet.load(tmp_path / "run")[0].model.classes == 3


def test_the_commands_as_new_processes(
    whole: tuple[Path, Ended], tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """What only a real process shows: the number of CPU devices, exit codes, no traceback."""
    bare = {name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    listed = subprocess.run([sys.executable, "-m", "alexnet_jax"], capture_output=True, text=True, env=bare)
    assert all(f"alexnet_jax.{name}" in listed.stdout for name in COMMANDS)
    tiny_run = (tiny_file, "--data", tiny_data, "--workdir", tmp_path / "run", "--steps", 1)
    of_four = command("train", *tiny_run, "--mesh=2,2")
    mesh = subprocess.run(of_four, capture_output=True, text=True, env=bare)
    assert "2 x 2 devices (cpu)" in mesh.stdout, "as many as the mesh asks for"
    mesh = subprocess.run(of_four, capture_output=True, text=True, env=bare | {"JAX_NUM_CPU_DEVICES": "2"})
    assert mesh.returncode == 2
    assert mesh.stderr.startswith("error: a mesh of 2,2 needs 4 devices and there are 2 (cpu)")
    evaluated = subprocess.run(command("evaluate", whole[0], "--json"), capture_output=True, text=True, env=bare)
    assert json.loads(evaluated.stdout)["examples"] == 21
    pipe = f"{sys.executable} -m alexnet_jax.train --help-all | head -n 1"
    cut = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, env=bare)
    assert cut.stdout == "usage: python -m alexnet_jax.train [-h] [OPTIONS] [CONFIG]\n"
    assert cut.stderr == "", "a closed pipe is no error"


def test_help_fits_on_one_screen_and_help_all_shows_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    helped, whole = run_command("train", "cuda_convnet", "--help"), run_command("train", "cuda_convnet", "--help-all")
    assert helped.code == whole.code == 0
    assert helped.out.startswith("usage: python -m alexnet_jax.train ")
    assert len(helped.out.splitlines()) <= 36
    assert "--model.image-size" not in helped.out
    assert "--help-all lists them" in helped.out
    for option in ("--data", "--seed", "--precision", "--workdir", "--init", "--steps", "--mesh", "--log-every"):
        assert option in helped.out
        assert option in whole.out
    for name in flat(alexnet.preset("cuda_convnet")).keys() - {"preset", "own", "model.conv6"}:
        assert f"--{name.replace('_', '-')}" in whole.out
    assert "(default: 224)" in whole.out, "the defaults are those of the preset named"
