"""What devices send each other: the plan is what the compiled step does, and nothing else."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import run_command
from jax import lax
from PIL import Image

from alexnet_jax import communication
from alexnet_jax.config import PRESETS, BadInput, Config, Conv, preset
from alexnet_jax.networks import columns, compiled, drawing, functional, links, topology, traffic
from alexnet_jax.networks.traffic import Collective, Devices

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import plans

HYBRID = "hybrid"
CONFIGS: dict[str, tuple[dict[str, Any], Devices]] = {
    "1,2": ({}, Devices(1, 2)),
    "2,2": ({}, Devices(2, 2)),
    "4,1": ({}, Devices(4, 1)),
    "2,1 hybrid": ({}, Devices(2, 1, HYBRID)),
    "2,2 hybrid": ({}, Devices(2, 2, HYBRID)),
    "2,2 hybrid, net 150": ({"meet": ()}, Devices(2, 2, HYBRID)),
    "2,2, LRN across columns": ({"lrn_across_columns": True}, Devices(2, 2)),
    "2,2, batch norm": (
        {"conv2": Conv(8, 3, padding=(1, 1), then=("batch_norm", "activation", "pool"))},
        Devices(2, 2),
    ),
    "1,4, other meetings": ({"columns": 4, "meet": ("conv2", "conv5", "fc7")}, Devices(1, 4)),
}


def found_in(config: Config, devices: Devices, batch: int) -> list[Collective]:
    layers = functional.activation_shapes(config.model)
    return compiled.read(communication.compiled_step(config, devices, batch).as_text(), layers)


@pytest.mark.parametrize(("fields", "devices"), CONFIGS.values(), ids=CONFIGS.keys())
def test_the_compiled_step_sends_what_the_plan_says_and_nothing_else(
    tiny: Config, fields: dict[str, Any], devices: Devices
) -> None:
    config = replace(tiny, model=replace(tiny.model, **fields))
    planned, found = traffic.plan(config, devices, 8), found_in(config, devices, 8)
    pairs = compiled.compare(planned, found)
    assert [pair for pair in pairs if pair.differ] == []
    assert [pair.planned and pair.planned.bytes for pair in pairs] == [
        pair.found and pair.found.bytes for pair in pairs
    ]
    assert len(planned) == len(found)
    activations = {one.layer for one in planned if one.direction in ("forward", "backward")}
    assert {one.layer for one in found if one.layer} == activations, "named by the compiled program itself"


@pytest.mark.parametrize("rule", ["lars", "lamb", "adam"])
def test_every_update_rule_sends_numbers_only(tiny: Config, rule: Any) -> None:
    """No kernel is gathered for its norm; a compiler may add up some of the numbers first."""
    config, devices = replace(tiny, optim=replace(tiny.optim, rule=rule)), Devices(1, 2)
    pairs = compiled.compare(traffic.plan(config, devices, 8), found_in(config, devices, 8))
    assert [pair for pair in pairs if pair.differ] == []


def test_bfloat16_is_sent_as_float32_by_a_cpu_and_counted_as_two_bytes_in_the_plan(tiny: Config) -> None:
    config, devices = replace(tiny, precision="bfloat16"), Devices(1, 2)
    planned, found = traffic.plan(config, devices, 8), found_in(config, devices, 8)
    assert any(pair.differ for pair in compiled.compare(planned, found))
    pairs = compiled.compare(planned, found, types=False)
    assert not any(pair.differ for pair in pairs)
    (conv3,) = (pair for pair in pairs if (pair.one.layer, pair.one.direction) == ("conv3", "forward"))
    assert (conv3.planned, conv3.found) != (None, None)
    assert conv3.planned.bytes == 2 * 8 * 3 * 3 * 4  # type: ignore[union-attr]


def test_the_numbers_of_2012() -> None:
    """docs/columns.md counts activations each way; here are bytes over both devices and both ways."""
    config = preset("cuda_convnet")
    for batch in (8, 128):
        sent = traffic.plan(config, Devices(1, 2), batch)
        assert traffic.bytes_per_image(sent, Devices(1, 2), batch) == 460_608
        each_way = {one.layer: one.bytes // (4 * batch) for one in sent if one.direction == "forward"}
        assert each_way == {"conv3": 21_632, "fc6": 4_608, "fc7": 2_048, "fc8": 1_000}
    data = traffic.plan(config, Devices(2, 1), 128)
    gradients = sum(one.bytes for one in data if one.direction == "gradients")
    assert gradients == 60_965_224 * 4, "in a ring of two every device sends half of each sum twice"


def test_a_ring_sends_this_much() -> None:
    """Four devices, counted by hand: three messages of a quarter, twice for an all-reduce."""
    of_quarters = Collective("fc6", "all-gather", "forward", (8,), 4)
    assert (of_quarters.bytes, of_quarters.steps) == (3 * 8 * 4, 3)
    whole = replace(of_quarters, kind="all-reduce", shape=(32,))
    assert (whole.bytes, whole.steps) == (2 * 3 * 8 * 4, 6)
    assert replace(of_quarters, kind="reduce-scatter", item=2).bytes == 3 * 8 * 2
    assert replace(of_quarters, kind="collective-permute").bytes == 3 * 8 * 4 // 4, "the last has no neighbour"


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_sends_is_written_down(name: str) -> None:
    """After a change on purpose: python scripts/plans.py, and look at the difference."""
    assert plans.text(PRESETS[name]) == (plans.PLANS / f"{name}.txt").read_text()


def wasteful(exchange: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def patched(x: jax.Array, axis: str | None) -> jax.Array:
        y = exchange(x, axis)
        return y + lax.ppermute(x.mean(), axis, [(0, 1), (1, 0)]) if axis else y

    return patched


def test_a_collective_that_is_not_planned_is_named(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exchange that sends one number more; and one that sends nothing."""
    arguments = (tiny_file, "--mesh", "1,2", "--json")
    good = run_command("communication", *arguments)
    assert (good.code, good.err) == (0, "")
    said = json.loads(good.out)
    assert set(said) == {
        "preset", "mesh", "layout", "batch", "collectives", "bytes_per_image", "unexpected", "alternatives",
    }  # fmt: skip
    assert (said["mesh"], said["layout"], said["batch"], said["unexpected"]) == ([1, 2], "columns", 8, [])
    assert said["collectives"][0] == {
        "layer": "conv3", "kind": "all-gather", "direction": "forward",
        "shape": [8, 3, 3, 4], "bytes": 4 * 8 * 3 * 3 * 4,
    }  # fmt: skip
    assert said["bytes_per_image"] == 2 * 4 * (2 * (3 * 3 * 4 + 4 + 8) + 3), "three exchanges both ways, three logits"
    assert {one["name"] for one in said["alternatives"]} == {"columns", "data", "hybrid"}

    monkeypatch.setattr(columns, "exchange", wasteful(columns.exchange))
    more = run_command("communication", *arguments)
    assert more.code == 1
    assert "collective-permute of one number over 2 devices: unexpected" in more.err
    assert {one["kind"] for one in json.loads(more.out)["unexpected"]} == {"collective-permute"}

    monkeypatch.setattr(columns, "exchange", lambda x, axis: jax.numpy.concatenate([x, x], axis=-1) if axis else x)
    less = run_command("communication", *arguments)
    assert less.code == 1
    assert "conv3, forward: all-gather of 8x3x3x4 over 2 devices: missing in the program" in less.err


def test_the_report_for_people(tiny_file: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "times.svg"
    ended = run_command("communication", tiny_file, "--mesh", "2,2", "--layout", "hybrid", "--plot", drawn)
    assert ended.code == 0, ended.err
    for said in ("reduce-scatter", "loss, top1_error, update_norm", "columns with data", "hybrid takes less time"):
        assert said in ended.out
    assert "--mesh 4,1 --layout hybrid" in ended.out
    assert drawn.read_text().startswith("<?xml")


def test_what_the_report_cannot_do_is_said(tiny_file: Path) -> None:
    def refused(*arguments: object) -> str:
        return run_command("communication", tiny_file, *arguments).refused

    assert "--link fast is not one of 2012, nvlink, ethernet100, ethernet10, nor GB/s,microseconds" in refused(
        "--link", "fast"
    )
    assert "a batch of 7 cannot be shared by a data axis of 2" in refused("--mesh", "2,1", "--batch", 7)
    assert "2 column(s) cannot be laid over 4 devices" in refused("--mesh", "1,4")
    assert "a mesh of 0,2 is empty" in refused("--mesh", "0,2")
    assert "--batch is at least 1" in refused("--batch", -1)
    own = tiny_file.parent / "own.py"
    own.write_text(f"{tiny_file.read_text()}\nfrom dataclasses import replace\n"
                   "CONFIG = replace(CONFIG, own=(('forward', 'mine'),))\n")  # fmt: skip
    assert "is a run of a network that is not in this package" in run_command("communication", own).refused


def test_on_one_device_nothing_is_sent(tiny_file: Path) -> None:
    said = json.loads(run_command("communication", tiny_file, "--mesh", "1,1", "--json").out)
    assert (said["collectives"], said["bytes_per_image"], said["unexpected"]) == ([], 0, [])


# ------------------------------------------------------------------------------------------ programs of other compilers

PROGRAM = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%async_computation (p: f32[8,4]) -> f32[4,4] {
  ROOT %rs = f32[4,4]{1,0} reduce-scatter(%p), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add, \
metadata={op_name="jit(step)/transpose(jvp(jit(apply)))/shard_map/AlexNet/fc7/exchange/reduce_scatter"}
}

%body (state: (s32[], f32[2])) -> (s32[], f32[2]) {
  %looped = f32[2]{0} all-reduce(%x), replica_groups=[2,2]<=[4], to_apply=%add
}

ENTRY %main (p: f32[8,4]) -> f32[4,4] {
  %ag = (f32[8,4]{1,0:T(8,128)}, f32[2,8,4]{2,1,0:T(8,128)}) all-gather-start(%p), \
replica_groups=mesh['data'=2,'column'=2] {'column'}, dimensions={0}, \
metadata={op_name="jit(step)/jvp(jit(apply))/shard_map/AlexNet/conv3/exchange/all_gather"}
  %done = f32[2,8,4]{2,1,0} all-gather-done(%ag)
  %two = ((bf16[6]{0}, f32[5]{0}), (bf16[12]{0}, f32[10]{0})) all-gather-start(%a, %b), replica_groups={{0,1},{2,3}}
  %start = ((f32[8,4]), f32[4,4], u32[]) async-start(%p), calls=%async_computation
  %end = f32[4,4] async-done(%start), calls=%another
  %again = ((f32[8,4]), f32[4,4], u32[]) async-start(%p), calls=%async_computation
  %merged = (f32[3]{0}, /*index=1*/f32[]) all-reduce-start(%g, %l), \
replica_groups=mesh['axis_0'=4,'axis_1'=1], device_ids=([2,2]T(1,0)) {'axis_0'}, to_apply=%add
  %gpu = ((f32[7]{0}), f32[7]{0}) all-reduce-start(%g), replica_groups={{0,1},{2,3}}, to_apply=%add
  %part = f32[2]{0} all-reduce(%g), replica_groups=mesh['data'=2,'column'=4] {'data','column':(2)2}, to_apply=%add
  %alone = f32[9]{0} all-reduce(%g), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %nowhere = f32[9]{0} collective-permute(%g), source_target_pairs={}
  %right = (f32[9]{0}, f32[9]{0}, u32[], u32[]) collective-permute-start(%g), source_target_pairs={{0,1},{2,3}}
  %loop = (s32[], f32[2]) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_asynchronous_merged_and_looped_collectives_are_all_counted() -> None:
    found = compiled.read(PROGRAM, ("conv3", "fc7"))
    scatter = Collective("fc7", "reduce-scatter", "backward", (4, 4), 2)
    assert found == [
        Collective("conv3", "all-gather", "forward", (32,), 2),
        Collective("", "all-gather", "forward", (6,), 2, 2),
        Collective("", "all-gather", "forward", (5,), 2),
        scatter,
        scatter,
        Collective("", "all-reduce", "forward", (3,), 4),
        Collective("", "all-reduce", "forward", (), 4),
        Collective("", "all-reduce", "forward", (7,), 2),
        Collective("", "all-reduce", "forward", (2,), 4),
        Collective("", "collective-permute", "forward", (9,), 2),
        *3 * [Collective("", "all-reduce", "forward", (2,), 2)],
    ]
    planned = [scatter, scatter, replace(scatter, layer="conv3", kind="all-gather", direction="forward", shape=(8, 4))]
    pairs = compiled.compare(planned, found)
    assert [pair.differ for pair in pairs[:3]] == [False] * 3
    assert all(pair.planned is None for pair in pairs[3:])
    assert compiled.compare([replace(scatter, layer="fc6")], [scatter])[0].found is None, "of another layer"


# ------------------------------------------------------------------------------------------------ the model of time


def test_times_on_a_link() -> None:
    link = links.link("2,10")
    gather = Collective("conv3", "all-gather", "forward", (1000,), 3)
    assert link.seconds([gather]) == pytest.approx(2 * 10e-6 + 2 * 4000 / 2e9)
    sums = [
        Collective("conv1", "all-reduce", "gradients", (300,), 3),
        Collective("loss", "all-reduce", "metrics", (), 3),
    ]
    together = 4 * 10e-6 + (sums[0].bytes + sums[1].bytes) / 2e9
    assert link.seconds(sums) == pytest.approx(together), "one message for all sums over the same devices"
    assert link.seconds([gather, *sums]) == pytest.approx(link.seconds([gather]) + together)
    for wrong in ("2", "2,x", "0,1", "-1,2"):
        with pytest.raises(BadInput, match="GB/s,microseconds"):
            links.link(wrong)


def test_the_batch_up_to_which_columns_pay_is_exact() -> None:
    config, link = preset("cuda_convnet"), links.LINKS["ethernet10"]
    for number, ours in ((2, Devices(1, 2)), (8, Devices(4, 2))):
        until = links.columns_pay_until(config, number, link.seconds)
        assert until is not None
        assert until % number == 0
        times = [
            [link.seconds(traffic.plan(config, devices, batch)) for devices in (ours, Devices(number, 1))]
            for batch in (until, until + number)
        ]
        assert times[0][0] < times[0][1]
        assert times[1][0] >= times[1][1]
    assert links.columns_pay_until(preset("half"), 2, link.seconds) is None


def test_the_arithmetic_is_three_times_the_forward_pass_without_the_image_s_gradient() -> None:
    config = preset("cuda_convnet")
    conv1 = 55 * 55 * 11 * 11 * 3 * 96
    expected = 2 * (3 * 724_406_816 - conv1) * 128 / 2 / 1e12
    assert links.arithmetic_seconds(config, 128, 2, 1e12) == pytest.approx(expected)


def test_alternatives_are_those_that_divide() -> None:
    names = {one.name: one.devices for one in links.alternatives(preset("cuda_convnet"), 8, 128)}
    assert names == {
        "data": Devices(8, 1),
        "columns with data": Devices(4, 2),
        "hybrid": Devices(8, 1, HYBRID),
        "hybrid with columns": Devices(4, 2, HYBRID),
    }
    assert [one.name for one in links.alternatives(preset("cifar"), 2, 128)] == ["data"]
    assert [one.name for one in links.alternatives(preset("cuda_convnet"), 3, 129)] == ["data"], "4096 units by three"
    times = links.scaling(preset("cuda_convnet"), 4, links.LINKS["2012"].seconds, most=8)
    assert times["columns"].keys() == {2}
    assert times["hybrid"].keys() == {2, 4, 8}


# ------------------------------------------------------------------------------------------------------ the figures


def drawn(tmp_path: Path, config: Config, devices: Devices) -> str:
    path = tmp_path / "network.svg"
    drawing.draw_network(path, config, devices, 128)
    return path.read_text()


def test_the_figure_says_what_the_plan_says(tmp_path: Path) -> None:
    """Matplotlib writes every text as a comment next to its outlines; an arrow is a path of its own."""
    two = drawn(tmp_path, preset("cuda_convnet"), Devices(1, 2))
    for said in ("86,528 B", "18,432 B", "8,192 B", "4,000 B", "column 1 on device 1", "13x13x192"):
        assert said in two
    assert two == drawn(tmp_path, preset("cuda_convnet"), Devices(1, 2)), "the same drawing is the same file"
    hybrid = drawn(tmp_path, preset("one_weird_trick"), Devices(2, 1, HYBRID))
    assert "36,864 B" in hybrid, "its own maps of 6x6x256 to one other device"
    assert "device 1, images 2/2" in hybrid
    assert "MB from each device" in hybrid
    one = drawn(tmp_path, preset("half"), Devices(1, 1))
    assert "exchange" not in one
    assert "one device" in one
    four = replace(preset("fashion"), model=replace(preset("fashion").model, columns=4))
    assert "column 3 on device 3" in drawn(tmp_path, four, Devices(1, 4))


def test_the_background_of_a_drawing_is_transparent_and_its_colours_are_of_middle_brightness(tmp_path: Path) -> None:
    for name in ("network.png", "times.png"):
        path = tmp_path / name
        if name == "network.png":
            drawing.draw_network(path, preset("cuda_convnet"), Devices(1, 2), 128)
        else:
            drawing.draw_times(path, preset("fashion"), 8, "2012", links.LINKS["2012"], 1e12)
        pixels = np.asarray(Image.open(path).convert("RGBA")).reshape(-1, 4)
        assert (pixels[:, 3] == 0).mean() > 0.5
        solid = pixels[pixels[:, 3] == 255][:, :3]
        brightness = solid @ np.array([0.2126, 0.7152, 0.0722])
        assert brightness.min() > 60, "black would vanish on a dark page"
        assert brightness.max() < 200, "white would vanish on a light one"


def test_what_cannot_be_drawn_is_said(tiny_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ends in neither"):
        drawing.draw_network(tmp_path / "network.jpg", preset("fashion"), Devices(1, 2), 8)
    with pytest.raises(BadInput, match="draws networks with fc6 and fc7, not cifar"):
        drawn(tmp_path, preset("cifar"), Devices(2, 1))
    with pytest.raises(BadInput, match="up to 4 devices, and here are 8"):
        drawn(tmp_path, preset("fashion"), Devices(4, 2, HYBRID))


def test_sums_that_a_compiler_concatenates_are_taken_apart() -> None:
    sums = [
        Collective(layer, "all-reduce", direction, shape, 4)
        for layer, direction, shape in (
            ("conv1", "gradients", (3, 4)),
            ("conv1", "gradients", (4,)),
            ("fc8", "gradients", (4, 5)),
            ("fc8", "gradients", (5,)),
            ("loss", "metrics", ()),
            ("top1_error", "metrics", ()),
        )
    ]

    def missing(*found: Collective) -> list[Collective | None]:
        return [pair.planned or pair.found for pair in compiled.compare(sums, list(found)) if pair.differ]

    def one(elements: int, devices: int = 4) -> Collective:
        return Collective("", "all-reduce", "backward", (elements,), devices)

    assert missing(one(41)) == missing(one(43)) == missing(one(17), one(24)) == missing(*sums) == []
    assert missing(one(37), replace(sums[1], layer="")) == [], "all but the one that is summed alone"
    assert missing(one(12), one(29)) == [], "a part of the plan, with no metric and with all"
    assert missing(one(44)) == [*sums[:4], one(44)], "more metrics than there are"
    assert missing(one(41, devices=2)) == [*sums[:4], one(41, devices=2)]
    assert missing(one(16)) == sums[2:4]


# --------------------------------------------------------------------------------- for accelerators that are not there


def test_the_names_of_topologies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [topology.chips(name) for name in ("v5e:16x16", "v4:2x2x4", "h100:8", "h100:4x8")] == [256, 16, 8, 32]
    for wrong in ("v5e", "v5e:", "v5e:2xtwo", "h100"):
        with pytest.raises(BadInput, match="is not a kind of device and its chips"):
            topology.chips(wrong)
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"--topology needs libtpu for TPUs; install alexnet_jax\[topology\]"):
        topology.mesh("v5e:2x2", Devices(2, 2))
    with pytest.raises(BadInput, match=r"needs JAX's CUDA plugin for GPUs; install alexnet_jax\[cuda13\]"):
        topology.mesh("h100:8", Devices(4, 2))


@pytest.mark.parametrize(
    ("name", "package", "mesh"),
    [("v5e:2x2", "libtpu", "2,2"), ("h100:4", "jax_cuda13_plugin", "2,2"), ("h100:2x8", "jax_cuda13_plugin", "16,1")],
)
def test_the_program_for_accelerators_that_are_not_there(name: str, package: str, mesh: str) -> None:
    """Run where the extra `topology` or `cuda13` is installed: either is too large for the test environment."""
    pytest.importorskip(package)

    def ended(mesh: str) -> subprocess.CompletedProcess[str]:
        options = ["fashion", "--topology", name, "--mesh", mesh, "--batch", "64"]
        command = [sys.executable, "-m", "alexnet_jax.communication", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    good = ended(mesh)
    assert good.returncode == 0, good.stderr[-2000:]
    assert f"compiled by XLA for {name}" in good.stdout
    assert "Memory of a device" in good.stdout
    wrong = ended("1,2")
    assert wrong.returncode == 2
    assert "devices, and --mesh 1,2 uses 2; give another --mesh" in wrong.stderr
