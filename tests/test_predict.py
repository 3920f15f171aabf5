"""The predict command as users run it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import CLASSES, Ended, run_command
from PIL import Image

import alexnet_jax as alexnet
from alexnet_jax.data import augment, records
from alexnet_jax.data.pictures import open_picture
from alexnet_jax.predict import top5


@pytest.fixture(scope="module")
def run(tiny_file: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("runs") / "short"
    ended = run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--steps", 2)
    assert ended.code == 0, ended.err
    return run


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey and colour, of the network's size and of other sizes."""
    gallery, rng = tmp_path_factory.mktemp("gallery"), np.random.default_rng(0)
    (gallery / "below").mkdir()
    shapes = {"grey.png": (28, 28), "colour.png": (28, 28, 3), "wide.bmp": (40, 90, 3), "below/small.gif": (9, 7)}
    for name, shape in shapes.items():
        level = rng.integers(0, 256, (1,) * len(shape))
        Image.fromarray((0.5 * level + rng.integers(0, 128, shape)).astype(np.uint8)).save(gallery / name)
    return gallery


ORDER = ["below/small.gif", "colour.png", "grey.png", "wide.bmp"]


def answers(ended: Ended) -> list[dict[str, Any]]:
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def probabilities(answer: dict[str, Any]) -> list[float]:
    """In the order of the classes."""
    by_number = {guess["number"]: guess["probability"] for guess in answer["top5"]}
    return [by_number[number] for number in range(len(CLASSES))]


def expected(run: Path, data: Path, picture_HWC: np.ndarray, crops: int) -> np.ndarray:
    """The probabilities of views that are cut here, one at a time."""
    config, params = alexnet.load(run)
    padded = np.pad(picture_HWC - records.Records(data).statistics.mean_HWC, ((2, 2), (2, 2), (0, 0)))
    corners = [(2, 2)] if crops == 1 else [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]
    views = [padded[top : top + 28, left : left + 28] for top, left in corners]
    views += [view[:, ::-1] for view in views] if crops == 10 else []
    logits = alexnet.forward(config.model)(params, np.stack(views).astype(np.float32))
    return np.asarray(jax.nn.softmax(logits)).mean(axis=0)


@pytest.mark.parametrize("crops", [1, 10])
def test_probabilities_are_those_of_the_network(run: Path, tiny_data: Path, gallery: Path, crops: int) -> None:
    found = answers(run_command("predict", run, gallery, "--crops", crops, "--json"))
    assert [answer["image"] for answer in found] == [str(gallery / name) for name in ORDER]
    for answer in found:
        assert set(answer) == {"image", "top5"}
        numbers = [guess["number"] for guess in answer["top5"]]
        assert [guess["class"] for guess in answer["top5"]] == [CLASSES[number] for number in numbers]
        listed = [guess["probability"] for guess in answer["top5"]]
        assert listed == sorted(listed, reverse=True)
        assert sum(listed) == pytest.approx(1, abs=1e-5)
        picture = open_picture(Path(answer["image"]), (28, 28, 1), "crop")
        np.testing.assert_allclose(probabilities(answer), expected(run, tiny_data, picture, crops), rtol=1e-5)
    assert len({tuple(probabilities(answer)) for answer in found}) == len(ORDER), (
        "the network must tell the pictures apart"
    )


def test_top5_returns_five_classes_and_breaks_ties_by_number() -> None:
    guesses = top5(np.array([0.1, 0.2, 0.2, 0.05, 0.3, 0.15], np.float32), "abcdef")
    assert [(guess["class"], guess["number"]) for guess in guesses] == [
        ("e", 4),
        ("b", 1),
        ("c", 2),
        ("f", 5),
        ("a", 0),
    ]
    assert [guess["probability"] for guess in guesses] == pytest.approx([0.3, 0.2, 0.2, 0.15, 0.1])


def test_ten_crops_are_the_default(run: Path, gallery: Path) -> None:
    ten, default, one = (
        [probabilities(answer) for answer in answers(run_command("predict", run, gallery, "--json", *crops))]
        for crops in (("--crops", 10), (), ("--crops", 1))
    )
    assert ten == default
    assert not np.allclose(ten, one, rtol=1e-4)


def test_a_grey_picture_and_its_colour_copy_get_the_same_answer(run: Path, gallery: Path, tmp_path: Path) -> None:
    Image.open(gallery / "grey.png").convert("RGB").save(tmp_path / "copy.png")
    grey, copy = answers(run_command("predict", run, gallery / "grey.png", tmp_path / "copy.png", "--json"))
    assert grey["top5"] == copy["top5"]


def test_pictures_are_made_square_as_the_config_says(run: Path, tiny_data: Path, gallery: Path, tmp_path: Path) -> None:
    warped = tmp_path / "warped"
    shutil.copytree(run, warped)
    about = warped / "checkpoints" / "latest" / "2" / "about" / "metadata"
    meta = json.loads(about.read_text())
    assert meta["config"]["data"]["square"] == "crop"
    meta["config"]["data"]["square"] = "warp"
    about.write_text(json.dumps(meta))
    (answer,) = answers(run_command("predict", warped, gallery / "wide.bmp", "--json"))
    crop, warp = (
        expected(run, tiny_data, open_picture(gallery / "wide.bmp", (28, 28, 1), square), 10)
        for square in ("crop", "warp")
    )
    np.testing.assert_allclose(probabilities(answer), warp, rtol=1e-5)
    assert not np.allclose(crop, warp, rtol=1e-4), "the network must tell them apart"


def test_predict_takes_files_folders_and_patterns(run: Path, gallery: Path) -> None:
    def images(*arguments: object) -> list[str]:
        found = answers(run_command("predict", run, *arguments, "--crops", 1, "--json"))
        return [str(Path(answer["image"]).relative_to(gallery)) for answer in found]

    assert images(gallery / "wide.bmp", gallery / "below", gallery / "*.png") == [
        "wide.bmp", "below/small.gif", "colour.png", "grey.png",
    ]  # fmt: skip
    assert images(f"{gallery}/**/*.gif") == ["below/small.gif"]


@pytest.mark.parametrize("mesh", ["1,1", "1,2", "2,2", "4,1"])
def test_every_layout_gives_the_same_answers(run: Path, gallery: Path, mesh: str) -> None:
    """With three pictures, which a data axis of 2 or 4 does not divide."""
    whole = answers(run_command("predict", run, gallery, "--json"))[:3]
    found = answers(run_command("predict", run, *(gallery / name for name in ORDER[:3]), "--json", "--mesh", mesh))
    for a, b in zip(whole, found, strict=True):
        np.testing.assert_allclose(probabilities(a), probabilities(b), rtol=1e-5)


def many(gallery: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.png").symlink_to(gallery / ("grey.png" if number % 3 else "colour.png"))
    return folder


def test_more_pictures_than_a_batch_are_answered_in_order(run: Path, gallery: Path, tmp_path: Path) -> None:
    ended = run_command("predict", run, many(gallery, tmp_path / "many", 70), "--json", "--crops", 1)
    found = answers(ended)
    assert [Path(answer["image"]).name for answer in found] == [f"{number:03}.png" for number in range(70)]
    grey, colour = found[1]["top5"], found[0]["top5"]
    assert grey != colour
    assert all(answer["top5"] == (grey if number % 3 else colour) for number, answer in enumerate(found))


def test_the_network_is_compiled_once(
    run: Path, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal traces
        traces += 1
        return test_view(*arguments, **options)

    test_view = augment.test_view
    monkeypatch.setattr(augment, "test_view", counted)
    assert run_command("predict", run, many(gallery, tmp_path / "many", 70), "--json").code == 0
    assert traces == 1


def test_the_table_shows_the_answers_of_json(run: Path, gallery: Path) -> None:
    paths = [gallery / name for name in ORDER[1:3]]
    read = answers(run_command("predict", run, *paths, "--json"))
    ended = run_command("predict", run, *paths)
    assert (ended.code, ended.err) == (0, "")
    lines = [line.strip() for line in ended.out.splitlines() if line.strip()]
    assert len(lines) == 2 * (1 + len(CLASSES))
    for answer, start in zip(read, (0, 1 + len(CLASSES)), strict=True):
        assert lines[start] == answer["image"], "on one line, even if it is long"
        for guess, line in zip(answer["top5"], lines[start + 1 :], strict=False):
            assert re.fullmatch(rf"{guess['probability']:.4f} +{guess['class']}", line)


def test_file_names_that_look_like_markup_are_printed_unchanged(run: Path, gallery: Path, tmp_path: Path) -> None:
    for name in ("[red]a.png", ":smile:.png", "b[bold]].png", "ä ö.png", "long name " * 15 + ".png"):
        path = tmp_path / name
        path.symlink_to(gallery / "grey.png")
        ended = run_command("predict", run, path, "--crops", 1)
        assert ended.code == 0, ended.err
        assert ended.out.splitlines()[0] == str(path)


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(run: Path, gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((gallery / "wide.bmp").read_bytes()[:200])
    paths = [tmp_path / "text.png", gallery / "grey.png", tmp_path / "cut.png", gallery / "colour.png"]
    ended = run_command("predict", run, *paths, "--json")
    assert ended.code == 2
    assert [json.loads(line)["image"] for line in ended.out.splitlines()] == [str(paths[1]), str(paths[3])]
    first, second = ended.err.splitlines()
    assert first.startswith(f"error: {paths[0]} is not an image")
    assert second.startswith(f"error: the image {paths[2]} cannot be read: ")
    good = answers(run_command("predict", run, paths[1], paths[3], "--json"))
    for a, b in zip(good, map(json.loads, ended.out.splitlines()), strict=True):
        np.testing.assert_allclose(probabilities(a), probabilities(b), rtol=1e-5)
    assert run_command("predict", run, paths[0]).refused.startswith(f"error: {paths[0]} is not an image")
    shown = run_command("predict", run, *paths)
    assert (shown.code, shown.err) == (2, ended.err)
    assert str(paths[3]) in shown.out


def test_bad_input_is_answered_with_one_sentence(run: Path, gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no run or checkpoint" in run_command("predict", tmp_path / "gone", gallery).refused
    assert "holds no checkpoint" in run_command("predict", tmp_path / "empty", gallery).refused
    assert "there are no images to look at" in run_command("predict", run).refused
    assert f"no image {gallery}/gone.png" in run_command("predict", run, gallery, gallery / "gone.png").refused
    assert "no images below" in run_command("predict", run, tmp_path / "empty").refused
    assert "no image *.nothing" in run_command("predict", run, "*.nothing").refused
    assert "invalid choice '5'" in run_command("predict", run, gallery, "--crops", 5).refused
    assert "--mesh 2 is not D,C" in run_command("predict", run, gallery, "--mesh", 2).refused
    assert "required" in run_command("predict").refused


def test_predict_as_a_new_process(run: Path, gallery: Path, tmp_path: Path) -> None:
    """What only a real process shows: exit codes, no traceback, nothing on standard error."""
    bare = {name: value for name, value in os.environ.items() if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}

    def process(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alexnet_jax.predict", run, *arguments, "--crops", "1", "--json"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=bare)

    several = process(many(gallery, tmp_path / "many", 40))
    assert (several.returncode, several.stderr, len(several.stdout.splitlines())) == (0, "", 40)
    (tmp_path / "bad.png").write_text("no image")
    bad = process(tmp_path / "bad.png", gallery)
    assert (bad.returncode, bad.stderr.count("\n"), len(bad.stdout.splitlines())) == (2, 1, len(ORDER))
