"""The benchmark: it disqualifies contestants that compute something else, and its report is right."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import run_command

import accelerator
import alexnet_jax as alexnet
import speed
from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config, ModelConfig
from alexnet_jax.training.optimiser import sgd
from contestants import onnx_runtime, ours, plain_jax, tables, task, turns, whole_runs
from contestants.turns import Match, ratios

SPEED = Path(speed.__file__)
NETWORKS = ("tiny", "2012's order", "tutorial")


def config_of(network: str, tiny_file: Path) -> Config:
    config = task.task_config(command_line.named_config("tutorial" if network == "tutorial" else str(tiny_file)), 4)
    if network != "2012's order":
        return config
    assert isinstance(config.model, ModelConfig)
    model = replace(
        config.model,
        conv1=replace(config.model.conv1, padding=(0, 3), then=("norm", "pool", "activation")),
        conv2=replace(config.model.conv2, then=("activation", "norm", "map_norm", "pool")),
        ragged=("pool2",),
    )
    return replace(config, model=model)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, tiny_file: Path) -> Config:
    return config_of(request.param, tiny_file)


def arrays_of(directory: Path) -> dict[str, np.ndarray]:
    return dict(np.load(directory / "params.npz"))


def test_plain_jax_trains_with_the_same_losses(network: Config, tmp_path: Path) -> None:
    task.write_task(tmp_path, network, "train", "float32", 2)
    mine = ours.role(str(tmp_path), "1,1")(check=True)["losses"]
    assert abs(mine[2] / mine[0] - 1) > 5e-3, "the losses must change over the steps"
    plain = plain_jax.role(str(tmp_path))
    np.testing.assert_allclose(plain(check=True)["losses"], mine, rtol=2e-5)
    assert plain(seconds=0.0)["steps"] == 1


def test_onnxruntime_computes_the_same_logits(network: Config, tmp_path: Path) -> None:
    task.write_task(tmp_path, network, "infer", "float32", 2)
    _, config, arrays, images, _ = ours.given(str(tmp_path))
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        params.setdefault(name.split("/")[0], {})[name.split("/")[1]] = array
    (theirs,) = onnx_runtime.session(config.model, arrays, 1).run(None, {"images": images.transpose(0, 3, 1, 2)})
    mine = alexnet.forward(config.model)(params, images)
    np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-5)


def test_contestants_have_the_same_loss_in_inference(network: Config, tmp_path: Path) -> None:
    task.write_task(tmp_path, network, "infer", "float32", 2)
    mine = ours.role(str(tmp_path), "1,1")(check=True)["losses"]
    for worker in (plain_jax.role(str(tmp_path)), onnx_runtime.role(str(tmp_path))):
        np.testing.assert_allclose(worker(check=True)["losses"], mine, rtol=2e-5)


@pytest.mark.parametrize("work", ["train", "infer"])
def test_pytorch_has_the_same_losses(network: Config, work: task.Work, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from contestants import pytorch

    task.write_task(tmp_path, network, work, "float32", 2)
    mine = ours.role(str(tmp_path), "1,1")(check=True)["losses"]
    for memory in "NCHW", "NHWC":
        np.testing.assert_allclose(pytorch.role(str(tmp_path), memory, "eager")(check=True)["losses"], mine, rtol=2e-5)


def test_pytorchs_momentum_follows_the_paper_when_the_learning_rate_drops() -> None:
    torch = pytest.importorskip("torch")
    from contestants import pytorch

    w = torch.ones(3, requires_grad=True)
    rule = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    expected, velocity = np.ones(3, np.float32), np.zeros(3, np.float32)
    for step, rate in enumerate([0.1, 0.1, 0.01, 0.01]):
        if step == 2:
            pytorch.change_rates(rule, 0.1)
        rule.zero_grad()
        (w**2).sum().backward()
        rule.step()
        velocity = np.asarray(sgd(0.9, velocity, 2 * expected, np.float32(rate)))
        expected = expected + velocity
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-5)


def test_the_number_of_operations_equals_a_count_by_hand() -> None:
    conv1 = 55 * 55 * 96 * 11 * 11 * 3
    others = (
        27 * 27 * 256 * 5 * 5 * 48
        + 13 * 13 * (384 * 3 * 3 * 256 + 384 * 3 * 3 * 192 + 256 * 3 * 3 * 192)
        + 6 * 6 * 256 * 4096 + 4096 * 4096 + 4096 * 1000
    )  # fmt: skip
    model = alexnet.preset("cuda_convnet").model
    assert task.flops(model, "infer", 32) == 2 * 32 * (conv1 + others)
    assert task.flops(model, "train", 32) == 2 * 32 * (2 * conv1 + 3 * others)


def role_file(directory: Path, name: str, answer: str) -> Path:
    path = directory / f"{name}.py"
    path.write_text(f"def role():\n    return lambda check=False, seconds=0.0: {answer}\n")
    return path


def test_a_contestant_that_differs_or_fails_is_dropped(tmp_path: Path) -> None:
    timed = '{"steps": 10, "seconds": 2.0}'
    roles = {
        "honest": f'{{"losses": [2.0, 1.0, 0.5], "place": "cpu"}} if check else {timed}',
        "near": f'{{"losses": [2.0, 1.0, 0.5001], "place": "cpu"}} if check else {timed}',
        "liar": f'{{"losses": [2.0, 1.0, 0.6], "place": "cpu"}} if check else {timed}',
        "lost": f'{{"losses": [2.0, float("nan"), 0.5], "place": "cpu"}} if check else {timed}',
        "away": f'{{"losses": [2.0, 1.0, 0.5], "place": "gpu"}} if check else {timed}',
        "clumsy": '{"losses": [2.0, 1.0, 0.5], "place": "cpu"} if check else 1 / 0',
        "mute": '__import__("os").write(2, b"no room\\n") and __import__("os")._exit(1)',
    }
    with Match() as match:
        for name, answer in roles.items():
            match.enter(name, role_file(tmp_path, name, answer))
        match.enter("nowhere", tmp_path / "honest.py", python="/no/such/python")
        speed.play(match, speed.Options(rounds=2), lambda: None)
    assert {name: len(answers) for name, answers in match.answers.items()} == {"honest": 2, "near": 2}
    assert match.skipped == {
        "liar": "disqualified: its losses are 2, 1, 0.6, but those of honest are 2, 1, 0.5",
        "lost": "disqualified: its losses are 2, nan, 0.5, but those of honest are 2, 1, 0.5",
        "away": "disqualified: it runs on the gpu, the others on the cpu",
        "clumsy": "ZeroDivisionError: division by zero",
        "mute": "it exited with the message 'no room'",
        "nowhere": "/no/such/python cannot be run: No such file or directory",
    }


def test_a_contestant_that_does_not_answer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 2.0)
    with Match() as match:
        match.enter("quick", role_file(tmp_path, "quick", "{}"))
        match.enter("stuck", role_file(tmp_path, "stuck", '__import__("time").sleep(60)'))
        assert match.play() == {"quick": {}}
    assert match.skipped == {"stuck": turns.NO_ANSWER}


def test_ratios_are_taken_round_by_round() -> None:
    figures = {"a": [2.0, 9.0], "b": [1.0, 3.0]}
    assert ratios(figures, "a", "b") == [2.0, 3.0]
    assert ratios(figures, "a", "a") == ratios(figures, "a", "c") == []


def test_contestants_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    role_file(tmp_path, "idle", "{}")
    parent = tmp_path / "parent.py"
    parent.write_text(
        f"import sys, time\nfrom pathlib import Path\nsys.path.append({str(SPEED.parent)!r})\n"
        "from contestants.turns import Match\n"
        f"match = Match()\nmatch.enter('idle', Path({str(tmp_path / 'idle.py')!r}))\n"
        "print(match._there['idle']._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, parent], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    os.kill(worker, 0)
    process.kill()
    process.wait()
    for _ in range(100):
        stat = Path(f"/proc/{worker}/stat")
        if not stat.exists() or stat.read_text().rsplit(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker is still running")


def test_seconds_until_times_the_first_line_that_satisfies(tmp_path: Path) -> None:
    code = "import json, time\nfor n in range(100): print(json.dumps({'step': n}), flush=True); time.sleep(0.05)"
    took = whole_runs.seconds_until([sys.executable, "-c", code], tmp_path / "said", lambda line: line["step"] == 4)
    assert isinstance(took, float)
    assert 0.2 < took < 4
    missed = whole_runs.seconds_until([sys.executable, "-c", "print('{}')"], tmp_path / "said", lambda line: False)
    assert missed == whole_runs.NOT_REACHED
    fails = [sys.executable, "-c", "print('{}'); raise SystemExit('no room')"]
    for failed in whole_runs.seconds_until(fails, tmp_path / "said", lambda line: False), whole_runs.seconds_of(fails):
        assert failed == "it exited with code 1 and the message 'no room'"


def test_a_whole_run_is_faster_with_a_warm_cache(
    tiny: Config, tiny_file: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny network in place of `fashion`. The second run finds the cache that the first one filled."""
    monkeypatch.setattr(
        whole_runs, "TRAIN_FASHION", [*whole_runs.TRAIN_FASHION[:-1], str(tiny_file), "--data", str(tiny_data)]
    )
    monkeypatch.setattr(whole_runs, "EMBEDDED", tiny_data)
    torch_python = sys.executable if importlib.util.find_spec("torch") else None
    ticks: list[int] = []
    task.write_task(tmp_path, tiny, "train", "float32", 2)
    whole_runs.write_pictures(tmp_path, tiny)
    times = whole_runs.time_to_result(0.99, 1, torch_python, tmp_path, lambda: ticks.append(1))
    names = [whole_runs.OURS_COLD, whole_runs.OURS_WARM, *([whole_runs.TORCH] if torch_python else [])]
    assert list(times) == names
    assert len(ticks) == len(names)
    took = {name: outcomes[0] for name, outcomes in times.items()}
    assert all(isinstance(outcome, float) for outcome in took.values()), took
    assert took[whole_runs.OURS_WARM] < took[whole_runs.OURS_COLD]


def test_start_up_times_the_import_the_help_and_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "runs_of_fashion", lambda seed, said, *_: {"run": 3.0 if said({"step": 1}) else ""})
    ticks: list[int] = []
    times = whole_runs.start_up(2, None, tmp_path, lambda: ticks.append(1))
    assert list(times) == ["import alexnet_jax", "python -m alexnet_jax.train --help", "first step: run"]
    assert all(len(outcomes) == 2 and all(isinstance(one, float) for one in outcomes) for outcomes in times.values())
    assert len(ticks) == 4


def test_a_table_of_seconds_gives_the_reason_for_a_missing_time() -> None:
    table = tables.seconds("until", {"a": [1.0, 3.0, 2.0], "b": [1.0, "it fell", "it fell"], "c": ["it fell"]})
    assert table.splitlines() == [
        "| until | seconds |",
        "| --- | --- |",
        "| a | 2.00 (1.00 to 3.00) |",
        "| b | 1.00 (1.00 to 1.00); 2 of 3: it fell |",
        "| c | 1 of 1: it fell |",
    ]


def test_the_command_reports_every_contestant(tiny_file: Path, tmp_path: Path) -> None:
    ended = run_command(
        *(SPEED, "--presets", tiny_file, "--work", "infer", "--batches", 2, "--rounds", 2, "--seconds", 0.02),
        *("--parts", "speed", "--torch-python", "/no/such/python", "--out", tmp_path / "found"),
    )
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"command", "date", "processor", "cores", "precision", "speed"} <= found.keys()
    assert found["versions"][sys.executable]["jax"] == jax.__version__
    assert found["versions"]["/no/such/python"] == {}
    (cell,) = found["speed"]
    mine, plain = f"alexnet_jax 1,1, JAX {jax.__version__}", f"plain JAX {jax.__version__}"
    assert cell["contestants"].keys() == {mine, mine.replace("1,1", "1,2"), plain, "onnxruntime"}
    assert cell["skipped"]["PyTorch NHWC eager"] == "/no/such/python cannot be run: No such file or directory"
    of = cell["contestants"][mine]
    assert len(of["images_per_second"]["rounds"]) == 2
    assert of["over"]["plain JAX"]["least"] <= of["over"]["plain JAX"]["median"]
    assert 0 < of["matmul_share"]["least"] <= of["matmul_share"]["median"]
    assert cell["machine"]["matmul_gflops"]["median"] > 0
    table = (tmp_path / "found.md").read_text()
    assert mine in table
    assert "PyTorch NHWC compiled (batch 2); " in table
    assert "(batch 2): /no/such/python cannot be run" in table
    assert table in ended.out


def test_help_shows_the_name_of_the_script() -> None:
    assert run_command(SPEED, "--help").out.startswith("usage: python benchmarks/speed.py ")


@pytest.mark.parametrize("name", ["speed", "throughput", "profile_step", "photographs", "accelerator", "compile_times"])
def test_every_program_starts_as_a_script_from_any_directory(name: str, tmp_path: Path) -> None:
    if name == "photographs":
        pytest.importorskip("cv2")
    command = [sys.executable, SPEED.with_name(f"{name}.py"), "--help"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"{name}.py" in ended.stdout


def test_an_update_rule_that_the_other_programs_do_not_have_is_refused(tmp_path: Path) -> None:
    lamb = tmp_path / "lamb.py"
    lamb.write_text(
        "from dataclasses import replace\nfrom alexnet_jax.config.presets import preset\n"
        "fashion = preset('fashion')\nCONFIG = replace(fashion, optim=replace(fashion.optim, rule='lamb'))\n"
    )
    with pytest.raises(BadInput, match="trains by lamb"):
        task.task_config(command_line.named_config(str(lamb)), 4)


def test_bad_input_is_answered_with_one_sentence() -> None:
    assert "CIFAR-10" in run_command(SPEED, "--presets", "cifar").refused
    assert "--out /no/such/place" in run_command(SPEED, "--out", "/no/such/place").refused
    same = run_command(SPEED, "--also-python", sys.executable).refused
    assert f"has JAX {jax.__version__}, as another Python does" in same
    assert "at least 1" in run_command(SPEED, "--rounds", 0).refused
    assert "is not a Python with JAX" in run_command(SPEED, "--also-python", "/no/such/python").refused


def test_a_line_that_arrives_in_two_parts_is_read_as_one(tmp_path: Path) -> None:
    """A run that ends without the expected line gives no time."""
    log = tmp_path / "said.jsonl"
    writes = (
        "print('{\"step\": 1}'); print('{\"ste', end='', flush=True); time.sleep(0.1); print('p\": 2}', flush=True)"
    )
    command = [sys.executable, "-c", f"import time; {writes}; time.sleep(0.1)"]
    for step in (1, 2):
        took = whole_runs.seconds_until(command, log, lambda line, step=step: line["step"] == step)
        assert isinstance(took, float)
    assert whole_runs.seconds_until(command, log, lambda line: line["step"] == 3) == whole_runs.NOT_REACHED


def test_the_accelerator_report_needs_few_packages() -> None:
    absent = ("array_record", "cv2", "grain", "PIL", "simplejpeg", "tensorboardX", "tyro")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import accelerator; print(accelerator.tiny())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=SPEED.parent, capture_output=True, text=True)
    assert "Case(preset='tiny'" in ended.stdout, ended.stderr


def test_the_accelerator_report_keeps_each_figure_and_names_what_it_did_not_reach(tmp_path: Path) -> None:
    report, plan = accelerator.Report(tmp_path / "report.json", minutes=10), accelerator.tiny()
    report.put("rates", [{"precision": "bfloat16", "flops": 1e12, "bytes": 1e10}])
    too_large = replace(plan.cases[0][0], preset="cuda_convnet", work="infer", batch=10**7)  # terabytes
    accelerator.speed(report, plan, (replace(plan.cases[0][0], batch=4), too_large))
    found = json.loads((tmp_path / "report.json").read_text())
    (row,), (failed,) = found["speed"], found["failed"]
    work = task.flops(accelerator.tiny_network().model, "train", 1)
    assert row["images_per_second"] == pytest.approx(row["matmul_share"] * 1e12 / work)
    assert "10,000,000" in failed
    assert "| `tiny`, train | bfloat16 | 4 |" in accelerator.tables(found)


def test_the_accelerator_report_ends_when_time_is_up(tmp_path: Path) -> None:
    ended = run_command(Path(accelerator.__file__), "--tiny", "--minutes", 0.001, "--json", tmp_path / "report.json")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["machine"]["devices"] >= 1
    assert {"rates", "correctness", "beside PyTorch"} < set(found["not reached"])
