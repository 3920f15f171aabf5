"""Damage, and two at once: a run says what is wrong and loses nothing."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import Ended, run_command

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config, OptimConfig
from alexnet_jax.networks import columns
from alexnet_jax.training.digest import digests
from alexnet_jax.training.run_directory import alone_in, run_directory

# -------------------------------------------------------------------------------------------------------- digests


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16, np.float16, np.int32, np.uint8, np.bool_])
def test_every_flipped_bit_changes_the_digest(dtype: Any) -> None:
    array = (np.random.default_rng(0).normal(size=(3, 5)) * 4).astype(dtype)
    before = digests({"a": array})
    assert digests({"a": jnp.asarray(array)}) == before or dtype == np.float64, "on a device as on the host"
    for byte in range(array.nbytes):
        for bit in (0, 3, 7) if dtype != np.bool_ else (0,):
            changed = array.copy()
            changed.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            assert digests({"a": changed})["a"] != before["a"]


def test_digests_see_what_has_moved() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    others = array[::-1], array[:, ::-1], array.T, array.reshape(4, 3)
    found = [digests([each])["0"] for each in (array, *others[:3])]
    assert len(set(found)) == 4


def test_digests_are_the_same_on_any_layout(tiny: Config) -> None:
    params = alexnet.init(tiny.model, jax.random.key(0))
    here = digests(params)
    assert len(set(here.values())) > 8
    assert "conv2/kernel" in here
    for sizes, layout in (((2, 2), "columns"), ((1, 2), "columns"), ((2, 2), "hybrid")):
        there: Any = columns.shard(params, tiny.model, alexnet.make_mesh(*sizes), layout=layout)  # type: ignore[arg-type]
        assert digests(there) == here
    assert digests(jax.device_get(params)) == here


# ---------------------------------------------------------------------------------------------- damaged checkpoints


def files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def flip_a_bit(place: Path) -> None:
    """In fc7's kernel, and written as Orbax writes it, so that nothing but the number is wrong."""
    with ocp.StandardCheckpointer() as orbax:
        params = jax.tree.map(np.array, orbax.restore(place / "params"))
        params["fc7"]["kernel"].view(np.uint32)[3, 2] ^= 1 << 20
        orbax.save(place / "params", params, force=True)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


TO_A_FILE: dict[str, Callable[[Path], Any]] = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "with a changed byte": flip_a_byte,
}

DAMAGES: dict[str, Callable[[Path], Any]] = {
    "one bit flipped in fc7": flip_a_bit,
    "data files truncated": lambda place: [truncate(path) for path in files(place / "params")],
    "data files emptied": lambda place: [path.write_bytes(b"") for path in files(place / "params")],
    "the parameters deleted": lambda place: shutil.rmtree(place / "params"),
    "the moments deleted": lambda place: shutil.rmtree(place / "moments"),
    "the description deleted": lambda place: shutil.rmtree(place / "about"),
    "the description without its end": lambda place: (place / "about" / "metadata").write_text('{"config": {'),
    "an empty directory": lambda place: (shutil.rmtree(place), place.mkdir()),
}


@pytest.fixture(scope="module")
def halfway(tiny: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 5 and 6."""
    run = tmp_path_factory.mktemp("runs") / "run"
    for steps in (5, 6):
        alexnet.fit(tiny, run, tiny_data, alexnet.make_mesh(1, 2), steps, progress=False)
    return run


@pytest.fixture(scope="module")
def straight(tiny: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The parameters after eight steps without a break."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    return alexnet.fit(tiny, run, tiny_data, alexnet.make_mesh(1, 2), 8, progress=False).params


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_continues_from_the_checkpoint_before_the_damaged_one(
    halfway: Path, straight: Any, tiny_file: Path, tiny_data: Path, tmp_path: Path, damage: str
) -> None:
    run = copy_of(halfway, tmp_path)
    newest = run / "checkpoints" / "latest" / "6"
    DAMAGES[damage](newest)
    if damage != "the moments deleted":  # which only training reads
        for command in ("evaluate", "predict"):
            pictures = [str(next(Path(__file__).parents[1].rglob("docs/*.png")))] if command == "predict" else []
            ended = run_command(command, str(newest) if damage != "an empty directory" else str(run), *pictures)
            assert "6" in ended.refused
    options = ("--data", tiny_data, "--workdir", run, "--mesh", "1,2", "--steps", 8)
    ended = run_command("train", tiny_file, *options)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.out + ended.err
    assert f"the checkpoint {newest} " in " ".join(ended.out.split())
    assert "step 5 to 8" in ended.out
    jax.tree.map(np.testing.assert_array_equal, alexnet.load(run)[1], jax.device_get(straight))
    assert [path.name.partition("-")[0] for path in (run / "checkpoints" / "damaged").iterdir()] == ["6"]


@pytest.mark.parametrize("damage", TO_A_FILE)
def test_damage_to_any_file_is_noticed_or_harmless(halfway: Path, tmp_path: Path, damage: str) -> None:
    """Some files are not read. Whatever is read must be what was saved."""
    expected, said = alexnet.load(halfway)[1], []
    for number, original in enumerate(files(halfway / "checkpoints" / "latest" / "6")):
        run = copy_of(halfway, tmp_path / str(number))
        TO_A_FILE[damage](run / original.relative_to(halfway))
        try:
            found = alexnet.load(run)[1]
        except BadInput as error:
            said.append(str(error))
        else:
            jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert len(said) >= 3
    assert all("checkpoints/latest/6 cannot be read" in each or "is damaged: params/" in each for each in said), said


def test_a_flipped_bit_is_named(halfway: Path, tmp_path: Path) -> None:
    run = copy_of(halfway, tmp_path)
    newest = run / "checkpoints" / "latest" / "6"
    flip_a_bit(newest)
    with pytest.raises(BadInput, match=f"the checkpoint {newest} is damaged: params/fc7/kernel is not what was saved"):
        alexnet.load(run)
    with pytest.raises(BadInput, match="fc7/kernel is not what was saved"):
        alexnet.load(run, alexnet.make_mesh(2, 2))


def test_if_no_checkpoint_is_whole_the_run_is_refused_and_nothing_is_moved(
    halfway: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = copy_of(halfway, tmp_path)
    for step in "5", "6":
        shutil.rmtree(run / "checkpoints" / "latest" / step / "params")
    ended = run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--mesh", "1,2")
    assert f"no checkpoint of {run} is whole" in ended.refused
    assert sorted(path.name for path in (run / "checkpoints" / "latest").iterdir()) == ["5", "6"]


def test_checkpoints_of_earlier_versions_have_no_digests_and_load(halfway: Path, tmp_path: Path) -> None:
    run = copy_of(halfway, tmp_path)
    path = run / "checkpoints" / "latest" / "6" / "about" / "metadata"
    about = json.loads(path.read_text())
    assert set(about.pop("digests")) == {"params", "moments", "statistics"}
    path.write_text(json.dumps(about))
    jax.tree.map(np.testing.assert_array_equal, alexnet.load(run)[1], alexnet.load(halfway)[1])


# ----------------------------------------------------------------------------------------------------- two at once


def train(tiny_file: Path, tiny_data: Path, run: Path, *more: object) -> Ended:
    return run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--mesh", "1,2", *more)


def test_a_second_run_in_the_same_directory_is_refused(
    halfway: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = copy_of(halfway, tmp_path)
    with alone_in(run):
        refused = train(tiny_file, tiny_data, run, "--steps", 8).refused
        assert f"{run} is in use by process " in refused
        assert " on " in refused
    assert alexnet.load(run)  # unharmed
    assert (run / "lock").exists()  # as after a kill: it is no obstacle
    assert train(tiny_file, tiny_data, run, "--steps", 7).code == 0


def test_a_run_that_has_changed_since_it_was_read_is_refused(halfway: Path, tiny: Config, tmp_path: Path) -> None:
    run = copy_of(halfway, tmp_path)
    with (
        pytest.raises(BadInput, match="has changed in the meantime; repeat the command"),
        run_directory(run, tiny, None),
    ):
        pytest.fail("another process has saved checkpoints here")


def test_a_file_system_without_locks_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with alone_in(tmp_path / "run"):
        assert (tmp_path / "run" / "lock").exists()


def test_a_new_directory_that_holds_only_a_lock_is_a_new_run(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        pass
    assert train(tiny_file, tiny_data, tmp_path / "run", "--steps", 1).code == 0


# -------------------------------------------------------------------------------------------------- impossible runs


@pytest.mark.parametrize(("field", "value"), [("momentum", 1.0), ("momentum", -0.1), ("decay", -1.0)])
def test_an_optimiser_that_cannot_converge_is_refused(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=rf"optim\.{field} is|optim.momentum is .* and optim.{field}"):
        replace(OptimConfig(), **{field: value})  # type: ignore[arg-type]


def test_a_batch_larger_than_the_data_is_refused(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    refused = train(tiny_file, tiny_data, tmp_path / "run", "--optim.batch", 46).refused
    assert "optim.batch is 46 and " in refused
    assert "has 44 training images" in refused


def test_a_config_file_that_exits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    assert "ends.py cannot be run: SystemExit: 0" in run_command("train", tmp_path / "ends.py").refused
