"""ablate: experiments measured against a baseline over seeds, its interruptions, and its table."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import Ended, run_command
from scipy import stats

import alexnet_jax as alexnet
from alexnet_jax.ablate import shares_of_cores
from alexnet_jax.ablation import plan, plots, rates, results, table
from alexnet_jax.ablation.experiments import load
from alexnet_jax.ablation.results import Key, Result, digest
from alexnet_jax.config import BadInput, Config, diff
from alexnet_jax.networks import functional
from alexnet_jax.training import checkpoint

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SAME = """
from dataclasses import replace

PAPER = (1.5, 0.5)

def change(base):
    return replace(base, model=replace(base.model, dropout={dropout}))
"""
FAILS = """
def change(base):
    raise RuntimeError("no such thing")
"""


@pytest.fixture(autouse=True)
def _keep_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests after these."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "no_dropout.py").write_text(SAME.format(dropout=0.0))
    (tmp_path / "same.py").write_text("def change(base):\n    return base\n")
    (tmp_path / "fails.py").write_text(FAILS)
    return tmp_path


def ablate(place: Path, base: Path, data: Path, *more: object, files: tuple[str, ...] = ("no_dropout",)) -> Ended:
    paths = [place / f"{name}.py" for name in files]
    where = ("--base", base, "--data", data, "--steps", 2, "--out", place / "out", "--runs", place / "runs")
    return run_command("ablate", *paths, *where, *more)


def lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "out" / results.FILE).read_text().splitlines()]


def test_nothing_is_measured_twice_and_what_fails_is_named(place: Path, tiny_file: Path, tiny_data: Path) -> None:
    first = ablate(place, tiny_file, tiny_data, "--seeds", 1, files=("no_dropout", "fails", "same"))
    assert first.code == 1, "one experiment cannot be"
    assert "fails failed: RuntimeError: no such thing" in first.err
    assert "same changes nothing" in first.out
    found = lines(place)
    assert [(line["experiment"], line["seed"]) for line in found] == [("baseline", 0), ("no_dropout", 0)]
    assert {(line["preset"], len(line["data"]), line["steps"]) for line in found} == {("fashion", 12, 2)}
    assert not list((place / "runs").glob("*/*")), "run directories are removed"
    assert "+1.50, +0.50" in (place / "out" / "table.md").read_text()
    rows = json.loads((place / "out" / "table.json").read_text())
    assert {row["experiment"] for row in rows} == {"no_dropout", "one_crop"}
    assert (place / "out" / "forest.svg").read_text().startswith("<?xml")

    second = ablate(place, tiny_file, tiny_data, "--seeds", 1)
    assert (second.code, second.err, lines(place)) == (0, "", found)

    # With another definition the result is stale.
    (place / "no_dropout.py").write_text(SAME.format(dropout=0.25))
    third = ablate(place, tiny_file, tiny_data, "--seeds", 1)
    assert "no_dropout seed 0 was measured with another config" in third.out
    assert [line["experiment"] for line in lines(place)] == ["baseline", "no_dropout", "no_dropout"]
    assert lines(place)[2]["config"] != lines(place)[1]["config"]


def test_runs_are_ordered_so_that_an_early_end_leaves_pairs(place: Path, tiny: Config, tiny_data: Path) -> None:
    asked = plan.plan([load(place / "no_dropout.py")], tiny, range(5, 10), tiny_data, 2, place / "runs")
    assert [(task.key.experiment, task.key.seed) for task in asked.tasks[:4]] == [
        ("baseline", 5), ("no_dropout", 5), ("baseline", 6), ("no_dropout", 6)
    ]  # fmt: skip
    assert len({task.run for task in asked.tasks}) == 10
    assert [average.task.key[:2] for average in asked.averages] == [("five_networks", 5)]


def test_the_errors_are_those_of_evaluate_and_networks_are_averaged(
    place: Path, tiny_file: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two networks in place of five. Their loss is less than the mean of the two losses: the logarithm is concave."""
    monkeypatch.setitem(table.AVERAGES, "five_networks", {"baseline": 2})
    ended = ablate(place, tiny_file, tiny_data, "--seeds", 2, "--keep", files=("same",))
    assert ended.code == 0, ended.err
    runs = sorted((place / "runs").glob("*/*"))
    assert [checkpoint.find(run).config.seed for run in runs] == [0, 1]
    mesh = alexnet.make_mesh(1, 2)
    by_seed = {(line["experiment"], line["seed"]): line for line in lines(place)}
    for which, line in ((runs[1], by_seed["baseline", 1]), (runs, by_seed["five_networks", 0])):
        figures = alexnet.evaluate(which, mesh=mesh, progress=False)
        for name in ("top1_error", "top5_error", "loss"):
            assert line[name] == pytest.approx(figures[name])
    both = by_seed["five_networks", 0]["loss"]
    assert both < (by_seed["baseline", 0]["loss"] + by_seed["baseline", 1]["loss"]) / 2
    said = json.loads(run_command("evaluate", *runs, "--json", "--mesh", "1,2").out)
    assert (said["loss"], len(said["checkpoints"])) == (pytest.approx(both), 2)
    assert "give a run" in run_command("evaluate").refused


def test_runs_start_from_other_weights(place: Path, tiny_file: Path, tiny_data: Path) -> None:
    """With a rate of nearly 0 an experiment that starts from a trained network has that network's errors."""
    assert ablate(place, tiny_file, tiny_data, "--seeds", 1, "--keep", files=("same",)).code == 0
    (trained,) = (place / "runs").glob("*/*")
    trained.rename(place / "trained_0")
    text = (
        "from dataclasses import replace\n"
        f"INIT = '{place}/trained_{{seed}}'\n"
        "def change(base):\n    return replace(base, optim=replace(base.optim, rate=1e-30))\n"
    )
    (place / "still.py").write_text(text)
    ended = ablate(place, tiny_file, tiny_data, "--seeds", 2, files=("still",))
    assert (ended.code, "still seed 1 failed: there is no" in ended.err) == (1, True), ended.err
    found = {(line["experiment"], line["seed"]): line for line in lines(place)}
    assert found["still", 0]["loss"] == pytest.approx(found["baseline", 0]["loss"])
    assert found["still", 0]["loss"] != pytest.approx(found["baseline", 1]["loss"])


def test_seven_networks_of_two_kinds(place: Path, tiny: Config, tiny_data: Path) -> None:
    (place / "six_conv.py").write_text((EXPERIMENTS / "six_conv.py").read_text())
    asked = plan.plan([load(place / "six_conv.py")], tiny, range(5), tiny_data, 2, place / "runs")
    five, seven = asked.averages
    assert [member.key[:2] for member in five.members] == [("baseline", seed) for seed in range(5)]
    assert seven.members == [
        *five.members,
        *(task for task in asked.tasks if task.key[:2] in [("six_conv", 0), ("six_conv", 1)]),
    ]
    of_all = [result("baseline", seed, 0.1 + seed / 100) for seed in range(5)] + [result("seven_networks", 0, 0.1)]
    row = next(row for row in table.rows(of_all, table.OF_THE_BASELINE) if row.experiment == "seven_networks")
    assert (row.difference, row.paper) == (pytest.approx(-2), (-4.0, -2.8))


def test_a_killed_ablation_goes_on(place: Path, tiny_file: Path, tiny_data: Path) -> None:
    """Two runs at a time are interrupted in the middle of both; none starts again, and none is lost."""
    command = [
        sys.executable, "-m", "alexnet_jax.ablate", str(place / "no_dropout.py"), "--base", str(tiny_file),
        "--data", str(tiny_data), "--seeds", "1", "--out", str(place / "out"), "--runs", str(place / "runs"),
        "--steps", "9",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*command, "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(list((place / "runs").glob("*/*/metrics.jsonl"))) < 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, out + err
    assert "the same command goes on" in out
    assert "Traceback" not in err, err
    ended = run_command("ablate", *command[3:])
    assert ended.code == 0, ended.err
    assert sorted((line["experiment"], line["steps"]) for line in lines(place)) == [
        ("baseline", 9),
        ("no_dropout", 9),
    ]


# ------------------------------------------------------------------------------------------------ lines and the table


def result(experiment: str, seed: int, error: float, **more: Any) -> Result:
    given: dict[str, Any] = dict(
        config="c", top5_error=error / 10, loss=1.0, one_crop_top1_error=error + 0.01,
        one_crop_top5_error=error / 10, train_error=error / 2, seconds=60.0, versions={}, device="1 x cpu",
    )  # fmt: skip
    return Result(experiment, seed, "fashion", "d", 10, top1_error=error, **(given | more))


def test_lines_of_two_machines_are_joined_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    for seed in range(2):
        results.append(tmp_path, result("baseline", seed, 0.1))
    (tmp_path / "there.jsonl").write_bytes((tmp_path / results.FILE).read_bytes() + b'{"experiment": "no')
    results.append(tmp_path, result("baseline", 2, 0.2))
    found = results.read(tmp_path, Result)
    assert [one.seed for one in found] == [0, 1, 2, 0, 1]
    known = results.known(found, {one.key: "c" for one in found} | {Key("x", 0, "fashion", "d", 10): "c"})
    assert ([key.seed for key in known.results], known.stale) == ([0, 1, 2], [])
    cut = (tmp_path / results.FILE).read_bytes()
    (tmp_path / results.FILE).write_bytes(cut + b'{"experiment": "no')
    results.append(tmp_path, result("baseline", 3, 0.2))
    assert [one.seed for one in results.read(tmp_path, Result)] == [0, 1, 2, 3, 0, 1]
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match=r"bad\.jsonl:1 is not a result"):
        results.read(tmp_path, Result)


def test_a_digest_is_of_everything_but_the_seed(tiny: Config) -> None:
    assert digest(tiny) == digest(replace(tiny, seed=7))
    assert digest(tiny) != digest(replace(tiny, model=replace(tiny.model, dropout=0.1)))


def test_the_table_pairs_seeds_and_corrects_by_holm() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(0.10, 0.02, 6)
    changes = {"worse": 0.02 + draw.normal(0, 0.001, 6), "noise": np.array([1, -1, 2, -2, 1, -1]) / 500}
    lines = [result("baseline", seed, float(error)) for seed, error in enumerate(base)]
    for name, change in changes.items():
        lines += [result(name, seed, float(base[seed] + change[seed])) for seed in range(6)]
    lines += [result("unpaired", 9, 0.5), result("five_networks", 0, float(base[:5].mean()) - 0.01)]
    lines += [result("one_view", seed, base[seed] + 0.05, one_crop_top1_error=base[seed]) for seed in range(6)]
    rows = {row.experiment: row for row in table.rows(lines, {"worse": ((1.4, 1.2), None)})}
    assert set(rows) == {"worse", "noise", "five_networks", "one_view", "one_crop"}
    worse = rows["worse"]
    expected = stats.ttest_rel(base + changes["worse"], base)
    assert worse.p == pytest.approx(expected.pvalue, rel=1e-6)
    interval = expected.confidence_interval(0.95)
    assert (worse.low, worse.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert worse.verdict == "higher", "the spread between seeds is as large as the difference, and pairs remove it"
    assert worse.one_crop == table.OneCrop(*map(pytest.approx, (worse.difference, worse.low, worse.high)))
    assert rows["noise"].verdict == "no difference"
    assert (rows["five_networks"].difference, rows["five_networks"].verdict) == (pytest.approx(-1.0), "one pair")
    assert rows["one_crop"].difference == pytest.approx(1.0)
    assert rows["one_crop"].one_crop is None
    assert rows["one_view"].one_crop == table.OneCrop(*map(pytest.approx, (-1.0, -1.0, -1.0)))
    assert rows["five_networks"].one_crop == table.OneCrop(pytest.approx(-1.0), None, None)
    # Holm: the smallest p times the number of tests, the next times one fewer; never falling.
    tested = sorted((row.p, row.p_holm) for row in rows.values() if row.p is not None)
    least = 0.0
    for rank, (p, p_holm) in enumerate(tested):
        least = max(least, min(1.0, p * (len(tested) - rank)))
        assert p_holm == pytest.approx(least)
    said = table.markdown(list(rows.values()), lines, "Here.")
    assert "| `worse` | 6 |" in said
    assert "+1.40, +1.20" in said


def test_a_table_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    with pytest.raises(BadInput, match=r"install alexnet_jax\[ablate\]"):
        table.rows([], {})


@pytest.mark.parametrize(
    ("jobs", "shares"),
    [(1, [{2, 3, 5}]), (2, [{2, 5}, {3}]), (3, [{2}, {3}, {5}]), (4, [{2}, {3}, {5}, {2, 3, 5}])],
)
def test_jobs_share_the_cores(monkeypatch: pytest.MonkeyPatch, jobs: int, shares: list[set[int]]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 3}, raising=False)
    assert shares_of_cores(jobs) == shares


@pytest.mark.parametrize(("best", "tried"), [(0.04, 3), (0.08, 3), (0.02, 4), (1.28, 7), (3.0, 7), (0.0001, 8)])
def test_a_search_ends_when_both_neighbours_are_worse(best: float, tried: int) -> None:
    """Rates above 2 diverge. The search goes six doublings far at most."""
    measured: dict[float, float] = {}
    chosen, untried = rates.search(0.04, measured)
    while untried:
        measured |= {rate: math.inf if rate > 2 else abs(math.log(rate / best)) for rate in untried}
        chosen, untried = rates.search(0.04, measured)
    assert chosen == min(max(best, 0.04 / 64), 1.28)
    assert len(measured) == tried


def test_rates_that_are_close_are_chosen_by_the_mean_of_several_seeds() -> None:
    """With seed 0 the rate 0.08 is the best, by luck. 0.02 is too far from it for more seeds; 0.16 only guesses."""
    errors = {0.08: {0: 0.35, 1: 0.6, 2: 0.6}, 0.04: {0: 0.37, 1: 0.4, 2: 0.4}, 0.02: {0: 0.5}, 0.16: {0: 0.9}}
    measured: dict[float, dict[int, float]] = {}
    chosen, untried = rates.choose(0.04, measured, range(3), useless=0.7)
    while untried:
        for rate, seed in untried:
            measured.setdefault(rate, {})[seed] = errors[rate][seed]
        chosen, untried = rates.choose(0.04, measured, range(3), useless=0.7)
    assert chosen == 0.04
    assert measured == errors


def test_the_plot_has_a_line_for_each_row(tmp_path: Path) -> None:
    lines = [result(name, seed, 0.1 + 0.01 * seed) for name in ("baseline", "other") for seed in range(3)]
    lines += [result("learns nothing", seed, 0.9) for seed in range(3)]
    plots.forest(tmp_path / "plot.svg", table.rows(lines, {}), "title")
    plot = (tmp_path / "plot.svg").read_text()
    assert "<!-- one crop -->" in plot
    assert "<!-- +79.0 → -->" in plot, "it is written at the edge, where the other rows keep their scale"


def test_the_exchange_is_plotted_for_networks_that_differ_in_their_columns(tmp_path: Path, tiny: Config) -> None:
    changed = {path.stem: load(path).config(tiny, 1) for path in EXPERIMENTS.glob("*.py")}
    sent = {name: plots.bytes_exchanged(tiny, config) for name, config in changed.items() if diff(tiny, config)}
    there = {name: count for name, count in sent.items() if count is not None}
    of_columns = ("blind_columns", "four_columns", "meet_at_conv3", "meet_at_conv4", "meet_at_fc", "meet_everywhere")
    assert set(of_columns) | {"one_column"} <= set(there)
    assert not {"no_lrn", "half", "no_conv3", "lrn_across_columns"} & set(there)
    # Each column sends its half of what conv3, fc6 and fc7 read, and takes as many gradients. The logits are summed.
    acts = functional.activation_shapes(tiny.model)
    read = [math.prod(acts[name].shape[1:]) for name in ("pool2", "pool5", "fc6")]
    assert plots.bytes_exchanged(tiny, tiny) == 2 * 4 * (sum(read) + tiny.model.classes)
    assert (there["one_column"], there["blind_columns"]) == (0, 2 * 4 * tiny.model.classes)
    assert there["meet_at_conv3"] + there["meet_at_fc"] - there["blind_columns"] == plots.bytes_exchanged(tiny, tiny)
    lines = [result(name, seed, 0.1 + 0.01 * seed) for name in ("baseline", *there) for seed in range(3)]
    plots.exchange(tmp_path / "plot.svg", table.rows(lines, {}), {"baseline": 0.0, **there}, "title")
    label = f"meet at conv3, {there['meet_at_conv3'] / 1000:.1f} kB"
    assert f"<!-- {label} -->" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", "3-1"), "--seeds is 3-1"),
        (("--seeds", "x"), "--seeds is x"),
        (("--jobs", "0"), "at least 1"),
        (("nowhere.py",), "there is no file nowhere.py"),
        (("base.py",), "does not define change(base)"),
        (("--base", "nothing"), "there is no preset 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence(
    options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.py").write_text("CONFIG = 1\n")
    Path("one.py").write_text("def change(base):\n    return base\n")
    files = () if options[0].endswith(".py") else ("one.py",)
    assert said in run_command("ablate", *files, *options).refused
