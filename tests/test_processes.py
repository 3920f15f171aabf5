"""A run of several processes is the run of one: the same numbers, one log, one checkpoint, one end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import run_command

import alexnet_jax as alexnet
from alexnet_jax.training import checkpoint

STEPS = 22  # all of the run


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


Processes = list[subprocess.Popen[str]]


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Processes]:
    """Starts a command in two processes, which end with the test."""

    def start(name: str, *arguments: object) -> Processes:
        command = [sys.executable, "-m", f"alexnet_jax.{name}", *map(str, arguments), "--processes", "2"]
        command += ["--coordinator", f"127.0.0.1:{port()}", "--process"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        return [
            subprocess.Popen([*command, str(number)], text=True, env=environment, stdout=subprocess.PIPE, stderr=out)
            for number in range(2)
            for out in [(tmp_path / f"errors{number}").open("w")]
        ]

    return start


def ended(processes: Processes, within: float = 120.0) -> list[tuple[int, str]]:
    """[(exit code, standard output), ..] of the processes. Kills those that do not end in time."""
    try:
        outputs = [process.communicate(timeout=within)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def alone(tiny_file: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process on one device."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    options = ("--data", tiny_data, "--optim.epochs", 4, "--log-every", 1, "--mesh", "1,1", "--workdir", run)
    assert run_command("train", tiny_file, *options).code == 0
    return run


def differences(one: Path, other: Path) -> dict[str, float]:
    """Relative L2 norms of the differences of all parameters."""
    (_, params), (_, others) = alexnet.load(one), alexnet.load(other)
    return {
        jax.tree_util.keystr(path): float(np.linalg.norm(array - there) / np.linalg.norm(array))
        for (path, array), there in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(others), strict=True)
    }


def test_two_processes_of_two_devices_train_and_evaluate_as_one(
    alone: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path, launch: Callable[..., Processes]
) -> None:
    """Begun by columns, continued with the layout hybrid."""
    run = tmp_path / "run"
    options = (tiny_file, "--data", tiny_data, "--optim.epochs", 4, "--log-every", 1, "--workdir", run)
    for steps, layout in ((10, ("--mesh", "2,2")), (STEPS, ("--mesh", "4,1", "--layout", "hybrid"))):
        (first, said), (second, silence) = ended(launch("train", *options, "--steps", steps, *layout))
        assert (first, second) == (0, 0), (tmp_path / "errors0").read_text()
        assert f"to {steps} of {STEPS}" in said
        assert "step" not in silence, "process 0 speaks for all"
        assert checkpoint.newest_first(run)[0].name == str(steps)
    assert max(differences(alone, run).values()) < 1e-3

    ours, theirs = ((path / "metrics.jsonl").read_text().splitlines() for path in (run, alone))
    assert len(ours) == len(theirs), "each line once"
    for line, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert line.keys() == other.keys()
        same = [name for name in line if name not in ("images_per_second", "data_wait")]
        np.testing.assert_allclose([line[name] for name in same], [other[name] for name in same], rtol=1e-3)

    (first, said), (second, silence) = ended(launch("evaluate", run, "--mesh", "2,2", "--json"))
    assert (first, second) == (0, 0), (tmp_path / "errors0").read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("{")]
    assert "top1_error" not in silence
    figures, alike = json.loads(line), json.loads(run_command("evaluate", run, "--mesh", "1,1", "--json").out)
    assert figures == alike | {"loss": pytest.approx(alike["loss"], rel=1e-5)}


def test_an_end_of_one_process_is_the_end_of_all_and_the_run_goes_on(
    alone: Path, tiny_file: Path, tiny_data: Path, tmp_path: Path, launch: Callable[..., Processes]
) -> None:
    """It starts from the weights of another run."""
    run = tmp_path / "run"
    options = (tiny_file, "--data", tiny_data, "--optim.epochs", 9000, "--log-every", 1, "--workdir", run)
    options += ("--init", alone)

    def begin(mesh: str, until: int) -> Processes:
        processes, metrics = launch("train", *options, "--mesh", mesh), run / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.exists() or metrics.read_text().count("train/loss") < until:
            assert time.monotonic() < deadline, (tmp_path / "errors0").read_text()
            time.sleep(0.1)
        return processes

    processes = begin("2,2", 5)
    processes[1].send_signal(signal.SIGTERM)
    codes = ended(processes)
    assert [code for code, _ in codes] == [143, 143], (tmp_path / "errors0").read_text()
    saved = int(checkpoint.newest_first(run)[0].name)
    assert f"Interrupted at step {saved}, which is saved" in codes[0][1]

    processes = begin("4,1", saved + 5)
    processes[1].kill()
    began = time.monotonic()
    (code, _), _ = ended(processes)
    assert code != 0
    assert time.monotonic() - began < 60
    # Either a collective fails, or JAX notices that the other is silent.
    errors = (tmp_path / "errors0").read_text()
    assert "most likely because another one has ended" in errors or "another task died" in errors, errors

    last = int(checkpoint.newest_first(run)[0].name) + 3
    codes = ended(launch("train", *options, "--mesh", "2,2", "--steps", last))
    assert [code for code, _ in codes] == [0, 0], (tmp_path / "errors0").read_text()
    assert checkpoint.newest_first(run)[0].name == str(last)


def test_processes_that_do_not_come_together_say_so(tiny_file: Path, tmp_path: Path) -> None:
    def alone(number: int) -> subprocess.Popen[str]:
        options = ["--coordinator", f"127.0.0.1:{port()}", "--processes", "2", "--process", str(number), "--wait", "3"]
        command = [sys.executable, "-m", "alexnet_jax.train", str(tiny_file), *options]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    for number, process in [(number, alone(number)) for number in range(2)]:
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert f"error: process {number} has waited 3 s for {'process 0 at' if number else 'the others'}" in errors
        assert errors.endswith("a loopback address is for processes on one machine\n")

    def refused(*arguments: object) -> str:
        return run_command("train", tiny_file, *arguments).refused

    assert "need all of --coordinator HOST:PORT, --processes and --process" in refused("--processes", 2)
    three = ("--coordinator", "host:1234", "--processes", 2, "--process", 2)
    assert "--process 2 is not one of --processes 2, which have the numbers 0 to 1" in refused(*three)
    assert "--wait soon is not a number of seconds" in refused(*three, "--wait", "soon")
    assert "--distributed finds the processes by itself" in refused("--distributed", *three)
