"""What stops a run: signals at every place, a full disk, numbers that are not finite. The same command continues."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Ended, run_command

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config
from alexnet_jax.training import checkpoint, fit, full_disk, meter, not_finite
from alexnet_jax.training.log import Log

WHOLE = 17  # ceil(3 epochs x 44 images / 8); epochs end after steps 6, 11 and 17


def trained(tiny: Config, data: Path, run: Path, steps: int | None = None, **more: Any) -> Any:
    more = {"save_minutes": 30.0, "log_every": 4, "progress": False} | more
    return alexnet.fit(tiny, run, data, alexnet.make_mesh(1, 2), steps, **more)


@pytest.fixture(scope="module")
def straight(tiny: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole run without a break."""
    return trained(tiny, tiny_data, tmp_path_factory.mktemp("runs") / "straight")


def without_times(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("images_per_second", "data_wait")} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    """The same lines, and the same checkpoints to the bit, with what the plateau rule has seen."""
    assert without_times(a) == without_times(b)
    for kind in ("latest", "best"):
        here, there = (checkpoint.find(run / "checkpoints" / kind) for run in (a, b))
        assert (here.step, here.progress, here.digests) == (there.step, there.progress, there.digests)


# -------------------------------------------------------------------------------------------------------- signals


def kill_in_batches(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, at: int, batch: int) -> list[int]:
    """Sends SIGTERM when the iterator made by call number `at` of `where.name` gives batch number `batch`.

    A validation has two, and the third is its end. Returns a list of the batches that this iterator gave.
    """
    calls, real, given = itertools.count(1), getattr(where, name), []

    def watched(*arguments: Any, **more: Any) -> Iterator[Any]:
        mine = next(calls) == at
        for number, each in enumerate(real(*arguments, **more), 1):
            if mine:
                given.append(number)
                if number == batch:
                    os.kill(os.getpid(), signal.SIGTERM)
            yield each
        if mine and number < batch:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(where, name, watched)
    return given


# The place, the step that is saved, the validations that are put off, and the number of batches that were measured.
PLACES = {
    "reading data": (9, [], 9),
    "the first batch of a validation": (6, [1], 1),
    "the last batch of a validation": (11, [1], 2),
    "the end of a validation": (11, [], 3),
    "the last validation": (17, [1, 10], 1),
    "the ten crops": (17, [10], 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_is_answered_within_a_batch_wherever_it_comes(
    straight: Any, tiny: Config, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The run that continues repeats a validation that was put off, and ends as if nothing had happened."""
    step, owed, batches = PLACES[place]
    with monkeypatch.context() as patched:
        if place == "reading data":
            given = kill_in_batches(patched, fit, "training_batches", 1, 9)
        else:
            call = {6: 1, 11: 2, 17: 3}[step] + (owed == [10])
            given = kill_in_batches(patched, meter, "evaluation_batches", call, batches)
        with pytest.raises(SystemExit) as ended:
            trained(tiny, tiny_data, tmp_path / "run")
    assert ended.value.code == 143
    assert len(given) == (batches if place == "reading data" else min(batches, 2))
    found = checkpoint.find(tmp_path / "run")
    assert (found.step, found.progress["owed"]) == (step, owed)
    again = trained(tiny, tiny_data, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, again.params, straight.params)
    assert without_times(tmp_path / "run") == without_times(straight.path)
    best = [checkpoint.find(run / "checkpoints" / "best") for run in (tmp_path / "run", straight.path)]
    assert best[0].step == best[1].step
    assert best[0].digests == best[1].digests
    if step < WHOLE:
        assert_same_run(tmp_path / "run", straight.path)
    elif owed == [10]:
        before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
        monkeypatch.setattr(meter.Meter, "measure", None)
        trained(tiny, tiny_data, tmp_path / "run")  # complete
        assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("when", ["before a save", "while the run waits for its last save"])
def test_a_signal_during_a_save_waits_for_it(
    straight: Any, tiny: Config, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    real_save, real_exit = checkpoint.Writer.save_latest, checkpoint.Writer.__exit__

    def save(self: Any, state: Any, step: int, progress: Any) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real_save(self, state, step, progress)

    def close(self: Any, *error: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real_exit(self, *error)

    with monkeypatch.context() as patched:
        if when == "before a save":
            patched.setattr(checkpoint.Writer, "save_latest", save)
        else:
            patched.setattr(checkpoint.Writer, "__exit__", close)
        with pytest.raises(SystemExit) as ended:
            trained(tiny, tiny_data, tmp_path / "run", 8)
    assert ended.value.code == 143
    assert checkpoint.find(tmp_path / "run").step == (2 if when == "before a save" else 8)
    trained(tiny, tiny_data, tmp_path / "run")
    assert_same_run(tmp_path / "run", straight.path)


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"alexnet_jax.{name}", *map(str, arguments)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_step_is_compiled_ends_the_run_at_once(
    tiny_file: Path, tiny_data: Path, tmp_path: Path, number: int
) -> None:
    """There is nothing to save. A shell sees the same code whether a process ends by the signal or with 128 more."""
    process = subprocess.Popen(
        command("train", tiny_file, "--data", tiny_data, "--workdir", tmp_path / "run"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_NUM_CPU_DEVICES": "2"},
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if "step 0 to 17" in line:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode in (-number, 128 + number)
    assert not list(tmp_path.glob("run/checkpoints/latest/*"))
    assert process.returncode == 130 or number == signal.SIGTERM


# ------------------------------------------------------------------------------------------------------ a full disk


def one_sentence(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_disk_that_fills_up_is_one_sentence_and_loses_nothing(
    straight: Any, tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """With a save at every step. A limit for the size of a file stands for the disk, so that no test needs to mount."""
    run = tmp_path / "run"
    options = ("--data", tiny_data, "--workdir", run, "--log-every", 4, "--mesh", "1,2", "--save-minutes", 0)
    assert run_command("train", tiny_file, *options, "--steps", 5).code == 0
    before = checkpoint.newest_first(run)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = subprocess.run(
        command("train", tiny_file, *options), capture_output=True, text=True, preexec_fn=limit,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )  # fmt: skip
    assert f"{run} cannot be written: File too large; its last checkpoint is whole, and the same command" in (
        one_sentence(done)
    )
    assert checkpoint.newest_first(run)[-1] in before
    (run / "checkpoints" / "latest" / "3.orbax-checkpoint-tmp").mkdir()  # as a killed run leaves it
    assert run_command("train", tiny_file, *options).code == 0
    assert not list(run.rglob("*tmp*"))
    assert_same_run(run, straight.path)


def mounted(place: Path, size: str, *then: str) -> list[str]:
    """A command in a namespace of its own, where `place` is a file system of this size."""
    alone = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    return [*alone, 'mount -t tmpfs -o size="$1" none "$0" && shift && "$@"', str(place), size, *then]


def can_mount(place: Path) -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(mounted(place, "1m", "true"), capture_output=True).returncode
    )


def test_a_real_file_system_without_room(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Then the same command in the same place with room. The mount lives as long as the shell."""
    if not can_mount(tmp_path):
        pytest.skip("this machine does not let a user mount")
    there = tmp_path / "disk"
    there.mkdir()
    train = command("train", tiny_file, "--data", tiny_data, "--workdir", there / "run", "--save-minutes", 0)
    script = f'"$@" >&2; echo $?; mount -o remount,size=20m {there}; "$@" >&2; echo $?'
    done = subprocess.run(
        mounted(there, "300k", "sh", "-c", script, "sh", *train, "--steps", "8"), capture_output=True, text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
    )  # fmt: skip
    assert done.stdout.split() == ["2", "0"], done.stderr
    assert "Traceback" not in done.stderr
    assert f"error: {there}/run cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize("file", ["config.incomplete", "metrics.rewritten"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device that is always full")
def test_the_config_and_the_metrics_on_a_full_disk(tiny: Config, tiny_data: Path, tmp_path: Path, file: str) -> None:
    run = tmp_path / "run"
    trained(tiny, tiny_data, run, 2, log_every=1)
    before = [(run / name).read_bytes() for name in ("config.json", "metrics.jsonl")]
    (run / file).symlink_to("/dev/full")
    with pytest.raises(BadInput, match=f"{run} cannot be written: No space left on device"):
        trained(tiny, tiny_data, run, 3, log_every=1)
    assert [(run / name).read_bytes() for name in ("config.json", "metrics.jsonl")] == before
    (run / file).unlink()
    assert len(trained(tiny, tiny_data, run, 3, log_every=1).metrics) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device that is always full")
@pytest.mark.parametrize("file", ["metrics", "TensorBoard's"])
def test_a_line_of_the_metrics_on_a_full_disk(tmp_path: Path, file: str) -> None:
    def write() -> None:
        full = open("/dev/full", "a" if file == "metrics" else "ab")  # noqa: SIM115
        with full_disk.writing_to(tmp_path), Log(tmp_path, 0) as log:
            if file == "metrics":
                log._file = full
            else:
                log._board._py_recordio_writer._writer = full
            log.write(1, loss=1.0)

    with pytest.raises(BadInput, match="cannot be written: No space left"):
        write()


def test_only_refused_writes_are_explained(tmp_path: Path) -> None:
    hooks = sys.excepthook, sys.unraisablehook
    with pytest.raises(ZeroDivisionError), full_disk.writing_to(tmp_path):
        _ = 1 / 0
    assert full_disk.refusal(OSError(errno.ENOENT, "")) is None
    assert full_disk.refusal(ValueError("RESOURCE_EXHAUSTED [os_error_code='28']")) == "No space left on device"
    with full_disk.writing_to(tmp_path):
        assert sys.excepthook is not hooks[0]
    assert (sys.excepthook, sys.unraisablehook) == hooks


# ------------------------------------------------------------------------------------------------------- not finite


def test_a_step_that_is_not_finite_names_the_layer_where_it_happened(
    tiny: Config, tiny_data: Path, tmp_path: Path
) -> None:
    """Two steps after the last checkpoint, so the step in between is repeated, and saved."""
    reckless = replace(tiny, optim=replace(tiny.optim, rate=1e4))
    with pytest.raises(BadInput, match=r"no longer finite at step (\d+)") as raised:
        trained(reckless, tiny_data, tmp_path / "run")
    said = str(raised.value)
    bad = int(said.partition("at step ")[2].split()[0])
    assert bad > 2
    found = checkpoint.find(tmp_path / "run")
    assert found.step == bad - 1
    named = said.partition("the first activations that are not finite are those of ")[2].partition(";")[0]
    params = found.params()
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(params))
    records = fit.Records(tiny_data)
    images = next(fit.training_batches(records, tiny.optim, seed=0, reshuffle=tiny.data.reshuffle, rows=slice(0, 8),
                                       first=bad - 1, workers=0))["image"]  # fmt: skip
    pixels = images - records.statistics.mean_HWC
    acts = alexnet.features(tiny.model)(params, jnp.asarray(pixels, jnp.float32))
    order = [
        "conv1",
        "norm1",
        "pool1",
        "conv2",
        "norm2",
        "pool2",
        "conv3",
        "conv4",
        "conv5",
        "pool5",
        "fc6",
        "fc7",
        "fc8",
    ]
    infinite = [name for name in order if not np.isfinite(acts[name]).all()]
    assert named == infinite[0], "the crops differ from these whole images, but not by factors of 1e30"


def test_the_first_number_that_is_not_finite_is_named(tiny: Config, tiny_params: Any) -> None:
    order = ["conv1", "norm1", "pool1", "conv2", "fc8"]
    acts = {name: jnp.ones(3) for name in alexnet.features(tiny.model)(tiny_params, jnp.zeros((1, 28, 28, 1)))}
    gradients = jax.tree.map(jnp.ones_like, tiny_params)

    def said(*bad: str, loss: float = 1.0) -> str:
        own = jax.tree.map(lambda array: array, gradients)
        for name in bad:
            if "/" in name:
                layer, part = name.split("/")
                own[layer] = own[layer] | {part: own[layer][part].at[0].set(jnp.inf)}
        infinite = {name: jnp.array([1, jnp.nan, 2]) if name in bad else array for name, array in acts.items()}
        return not_finite.place(tiny.model, infinite, jnp.float32(loss), own)

    for first, later in itertools.pairwise(order):
        assert said(later, first, "conv1/kernel", loss=np.nan).endswith(f"those of {first}")
    assert said("fc8/bias", loss=np.inf) == "all activations are finite; the first number that is not is the loss"
    assert said("conv2/kernel", "fc6/bias").endswith("the first gradient that is not finite is that of fc6/bias")
    gradients["conv3"]["bias"] = gradients["conv3"]["bias"] * 1e30
    assert said().endswith("all gradients are finite, and the largest, 1.0e+30, is that of conv3/bias")
    assert not_finite.place(None, {}, jnp.float32(1), gradients).startswith("all gradients are finite")


# ------------------------------------------------------------------------------------------------- pipes and places


@pytest.mark.parametrize("words", ["", ".train --help", ".prepare --help"])
def test_a_closed_pipe_is_no_error(words: str) -> None:
    """Closed from the start, or after a line."""
    for reader, lines in (("true", 0), ("head -n 1", 1)):
        command = f"{sys.executable} -m alexnet_jax{words} | {reader}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.stdout.count("\n") == lines
        assert done.stderr == ""


BUCKET = "gs://bucket/there"


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--workdir", BUCKET),
        ("train", "--data", BUCKET),
        ("train", "--init", BUCKET, "--workdir", "run"),
        ("evaluate", BUCKET),
        ("predict", BUCKET, "boot.png"),
        ("diagnose", "--data", BUCKET),
        ("convert", BUCKET, "run"),
        ("convert", "weights.onnx", f"{BUCKET}.stablehlo"),
        ("prepare", "photos", BUCKET),
    ],
    ids=" ".join,
)
def test_the_address_of_a_bucket_is_refused(words: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "gs://bucket/there" in (refused := run_command(*words).refused)
    assert "is not in the file system; give a local directory" in refused
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_load_refuses_the_address_of_a_bucket() -> None:
    with pytest.raises(BadInput, match="s3://bucket/run is not in the file system"):
        alexnet.load("s3://bucket/run")


# ---------------------------------------------------------------------------------------------------- edited by hand


@pytest.fixture(scope="module")
def begun(tiny: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "begun"
    trained(tiny, tiny_data, run, 2)
    return run


def edited(**change: Any) -> Callable[[dict[str, Any]], str]:
    def edit(config: dict[str, Any]) -> str:
        for name, value in change.items():
            *parts, last = name.split("__")
            inside = config
            for part in parts:
                inside = inside[part]
            inside[last] = value
        return json.dumps(config)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda config: "", "config.json cannot be read: not the JSON of a Config: Expecting value"),
        (lambda config: '{"model": {', "config.json cannot be read: not the JSON"),
        (lambda config: "\udcff", "config.json cannot be read: 'utf-8' codec can't decode"),
        (lambda config: "[1]", "config.json cannot be read: a Config cannot be [1]"),
        (edited(model="x"), "config.json cannot be read: model cannot be 'x'"),
        (edited(model__conv1="x"), "config.json cannot be read: model.conv1 cannot be 'x'"),
        (edited(optim=None), "config.json cannot be read: optim cannot be None"),
        (edited(optim__batch=-1), "config.json cannot be read: optim.batch is -1"),
        (edited(optim__batch="8"), "config.json cannot be read: not the JSON of a Config: '<' not supported"),
        (edited(model__network="vgg"), "config.json cannot be read: there is no network 'vgg'"),
        (edited(model__widht=3), "config.json cannot be read: model.widht is not a field of a Config"),
        (edited(model__dropout=0.25), "is a run with another config: model.dropout (was 0.25, now 0.5); give another"),
    ],
)
def test_a_config_edited_by_hand_is_refused(
    begun: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path, edit: Any, said: str
) -> None:
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    text = edit(json.loads((run / "config.json").read_text()))
    (run / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    ended = run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--mesh", "1,2")
    assert said in ended.refused
    if "cannot be read" in said:
        assert said in run_command("train", run, "--data", tiny_data, "--workdir", run).refused


def test_a_checkpoint_of_another_network_is_refused(
    begun: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Copied into the run directory. It is not damaged, so it is not set aside."""
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    place = Path(shutil.copytree(checkpoint.newest_first(run)[0], run / "checkpoints" / "latest" / "3"))
    about = json.loads((place / "about" / "metadata").read_text())
    about["config"]["model"]["fc7"]["units"] = 8
    (place / "about" / "metadata").write_text(json.dumps(about))
    refused = run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--mesh", "1,2").refused
    assert f"{place} is a checkpoint of a run with another config: model.fc7.units (was 8, now 16); move it" in refused
    assert place.is_dir()


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["config"]["model"].update(heads=8),
        lambda about: about["progress"].update(era=1),
        lambda about: about.update(progress="x"),
        lambda about: about.update(data=None),
        lambda about: about["data"].pop("fingerprint"),
        lambda about: about.pop("config"),
    ],
    ids=["a new field", "new progress", "other progress", "no data", "no fingerprint", "no config"],
)
def test_a_checkpoint_whose_description_another_version_wrote_is_refused(
    begun: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path, change: Any
) -> None:
    """All of its checkpoints, as it is when somebody installs an older version of this package."""
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    for place in checkpoint.newest_first(run):
        about = json.loads((place / "about" / "metadata").read_text())
        change(about)
        (place / "about" / "metadata").write_text(json.dumps(about))
    ended: Ended = run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--mesh", "1,2")
    assert f"no checkpoint of {run} is whole" in ended.refused
    assert f"{checkpoint.newest_first(run)[0]} cannot be read" in " ".join(ended.out.split())
    assert "cannot be read" in run_command("evaluate", run).refused


# ------------------------------------------------------------------------------------------------------ same bits


def test_deterministic_sets_xlas_flags_before_the_backend_starts(tmp_path: Path) -> None:
    """The user's own flags come after them, so they take precedence."""
    mine = tmp_path / "mine.py"
    mine.write_text("""
import os
import jax._src.xla_bridge as bridge
assert not bridge._backends
print(os.environ["XLA_FLAGS"])
assert len(__import__("jax").devices()) == 3  # XLA knows all these flags
raise SystemExit
""")
    train = command("train", mine, "--deterministic", "--workdir", tmp_path / "run")
    more = {"XLA_FLAGS": "--xla_gpu_autotune_level=2 --xla_force_host_platform_device_count=3"}
    bare = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(train, capture_output=True, text=True, env=bare | more)
    assert "mine.py cannot be run: SystemExit" in done.stderr
    assert done.stdout.split() == [
        "--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0", *more["XLA_FLAGS"].split()
    ]  # fmt: skip
