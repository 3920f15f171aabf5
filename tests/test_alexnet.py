"""The network on several devices: the same numbers on every layout, and no more communication than in 2012."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alexnet_jax as alexnet
from alexnet_jax.config import BadInput, Config, Conv, Dense
from alexnet_jax.networks import columns, functional
from alexnet_jax.networks.columns import Layout, suitable_mesh

BATCH = 8
LABELS = np.arange(BATCH) % 3
LAYOUTS: list[tuple[int, int, Layout]] = [
    (1, 2, "columns"),
    (2, 2, "columns"),
    (2, 1, "columns"),
    (4, 1, "columns"),
    (2, 2, "hybrid"),
    (2, 1, "hybrid"),
    (4, 1, "hybrid"),
]
KEY = jax.random.key(2)
# Compiles in a third of the time: XLA makes the same program, and only LLVM does not optimise it.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 60, (BATCH, 28, 28, 1)).astype(np.float32)


def loss_and_gradient(forward: Callable[..., jax.Array]) -> Callable[..., Any]:
    def loss(params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        logits = forward(params, images, key=key, train=True)
        return -(jax.nn.log_softmax(logits) * np.eye(3)[LABELS]).sum(axis=-1).mean()

    return jax.value_and_grad(loss)


def relative(a: Any, b: Any) -> float:
    """The largest relative L2 distance between two leaves; NaN if a leaf is not finite."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return float(np.max([np.linalg.norm(x - y) / np.linalg.norm(x) for x, y in pairs]))


class Side(NamedTuple):
    """The network on one layout, with fresh parameters."""

    params: Any
    both: Callable[..., Any]
    forward: Callable[..., jax.Array]


def make_side(config: Config, layout: tuple[int, int] | tuple[int, int, Layout] | None, params: Any = None) -> Side:
    """`layout`: the mesh and, if it is not `columns`, the layout on it; None is one device."""
    model, params = config.model, params or alexnet.init(config.model, jax.random.key(0))
    if layout is None:
        forward = alexnet.forward(model)
        return Side(params, quick_jit(loss_and_gradient(forward)), forward)
    *sizes, kind = layout if len(layout) == 3 else (*layout, "columns")
    mesh = alexnet.make_mesh(*sizes)
    forward = alexnet.forward(model, mesh, layout=kind)
    params = alexnet.shard(params, model, mesh, layout=kind)
    return Side(params, quick_jit(loss_and_gradient(forward)), forward)


def test_layouts_agree_to_nine_digits_in_float64_and_the_gradient_is_the_slope_of_the_loss(
    tiny: Config, tiny_params: Any, images: np.ndarray
) -> None:
    """With dropout. A finite difference along a random direction shows whether a gradient is halved or doubled."""
    with jax.enable_x64(True):
        key, wide = jax.random.key(2), images.astype(np.float64)
        here, rng = make_side(tiny, None, to_float64(tiny_params)), np.random.default_rng(0)
        loss, gradient = here.both(here.params, wide, key)
        assert loss.dtype == jnp.float64
        for layout in LAYOUTS:
            there = make_side(tiny, layout, here.params)
            loss_there, gradient_there = there.both(there.params, wide, key)
            assert float(loss) == pytest.approx(float(loss_there), rel=1e-9)
            assert relative(gradient, gradient_there) < 1e-9
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), here.params)
        ends = [jax.tree.map(lambda x, d, t=t: x + t * d, here.params, direction) for t in (1e-7, -1e-7)]
        above, below = (float(here.both(end, wide, key)[0]) for end in ends)
        products = jax.tree.map(lambda g, d: np.vdot(g, d), gradient, direction)
        assert sum(jax.tree.leaves(products)) == pytest.approx((above - below) / 2e-7, rel=1e-4)


def to_float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


def collectives(compiled: str) -> Counter[str]:
    return Counter(
        kind
        for line in compiled.splitlines()
        for kind in re.findall(
            r"= .*? (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(", line
        )
        if not re.search(r"replica_groups=(\{\{0\},\{1\}\}|mesh\['data'=1,'column'=2\] \{'data'\})", line)
    )


def test_the_columns_communicate_as_often_as_in_2012(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    """Forward: three gathers (conv3, fc6, fc7) and the sum of the logits. Backward: three scatters. Nothing else.

    Sums over the data axis, which has one device here, are not counted.
    """
    there = make_side(tiny, (1, 2), tiny_params)
    forward = there.forward.lower(there.params, images).compile().as_text()  # type: ignore[attr-defined]
    assert collectives(forward) == {"all-gather": 3, "all-reduce": 1}
    both = jax.jit(loss_and_gradient(there.forward)).lower(there.params, images, KEY).compile().as_text()
    assert collectives(both) == {"all-gather": 3, "all-reduce": 1, "reduce-scatter": 3}


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_the_uncompiled_program_has_the_same_number_of_collectives(
    tiny: Config, tiny_params: Any, images: np.ndarray
) -> None:
    """The jaxpr does not depend on a compiler or a backend."""
    forward = alexnet.forward(tiny.model, alexnet.make_mesh(2, 2))
    jaxpr = jax.make_jaxpr(loss_and_gradient(forward))(tiny_params, images, KEY).jaxpr
    over_column = Counter(
        equation.primitive.name
        for equation in equations(jaxpr)
        if "column" in str(equation.params.get("axes", equation.params.get("axis_name")))
        and re.match(r"psum|all_gather|reduce_scatter|ppermute|all_to_all", equation.primitive.name)
    )
    assert sum(over_column.values()) == 7, over_column
    assert over_column["all_gather"] == 3
    assert over_column["reduce_scatter"] == 3


MEETINGS: dict[str, tuple[Any, ...]] = {
    "nowhere": (),
    "late": ("conv5", "fc7"),
    "everywhere": ("conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"),
}


@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS.keys())
def test_columns_meet_where_the_config_says_and_nowhere_else(
    tiny: Config, images: np.ndarray, meet: tuple[Any, ...]
) -> None:
    """One gather for each layer named in `meet`, with six convolutions. Such a layer reads all eight maps."""
    model = replace(tiny.model, meet=meet, conv6=replace(tiny.model.conv4, kernels=8))
    params = alexnet.init(model, jax.random.key(0))
    for name in ("conv2", "conv3", "conv4", "conv5", "conv6"):
        assert params[name]["kernel"].shape == (3, 3, 8 if name in meet else 4, 8), name
    assert params["fc7"]["kernel"].shape == (16 if "fc7" in meet else 8, 16)
    assert {row.layer for row in functional.describe(model) if row.reads == "all columns"} == {*meet, "fc8"}
    here, there = (make_side(replace(tiny, model=model), layout, params) for layout in (None, (1, 2)))
    lowered = there.forward.lower(there.params, images)  # type: ignore[attr-defined]
    expected = {"all-reduce": 1} | ({"all-gather": len(meet)} if meet else {})
    assert collectives(lowered.compile().as_text()) == expected
    loss, gradient = here.both(here.params, images, KEY)
    loss_there, gradient_there = there.both(there.params, images, KEY)
    assert float(loss) == pytest.approx(float(loss_there), rel=1e-5)
    assert relative(gradient, gradient_there) < 1e-3


OTHERS: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {
    "one column": ({"columns": 1}, [(4, 1)]),
    "one column that meets nowhere": ({"columns": 1, "meet": ()}, [(2, 1)]),
    "net 150": ({"meet": ()}, [(4, 1), (2, 2)]),
    "four columns, fc7 not among the meetings": ({"columns": 4, "meet": ("conv3", "fc6")}, [(2, 1), (2, 2)]),
    "six convolutions": ({"conv6": Conv(8, 3, padding=(1, 1), std=0.2)}, [(2, 1)]),
}


@pytest.mark.parametrize(("fields", "meshes"), OTHERS.values(), ids=OTHERS.keys())
def test_hybrid_is_the_network_of_one_device_with_any_columns(
    tiny: Config, images: np.ndarray, fields: dict[str, Any], meshes: list[tuple[int, int]]
) -> None:
    """In float64, with dropout: where a device has units of all its columns, of some, and of a part of one."""
    config = replace(tiny, model=replace(tiny.model, **fields))
    with jax.enable_x64(True):
        wide, params = images.astype(np.float64), to_float64(alexnet.init(config.model, jax.random.key(0)))
        loss, gradient = make_side(config, None, params).both(params, wide, KEY)
        for sizes in meshes:
            there = make_side(config, (*sizes, "hybrid"), params)
            loss_there, gradient_there = there.both(there.params, wide, KEY)
            assert float(loss) == pytest.approx(float(loss_there), rel=1e-9)
            assert relative(gradient, gradient_there) < 1e-9


def test_hybrid_on_one_copy_of_the_columns_is_columns(tiny: Config) -> None:
    mesh, params = alexnet.make_mesh(1, 2), alexnet.init(tiny.model, KEY)
    assert columns.place(tiny.model, mesh, "hybrid") == columns.place(tiny.model, mesh, "columns")
    assert columns.shardings(params, mesh, "hybrid") == columns.shardings(params, mesh, "columns")


def summed_shapes(compiled: str) -> list[tuple[int, ...]]:
    """The shapes of everything that the program sums over several devices, merged all-reduces taken apart."""
    found = []
    for line in compiled.splitlines():
        if (match := re.search(r"= (.*?) all-reduce(?:-start)?\(", line)) and "replica_groups={{0},{1}" not in line:
            found += [
                tuple(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\w+\[([\d,]*)\]", match[1])
            ]
    return found


@pytest.mark.parametrize("sizes", [(2, 1), (4, 1), (2, 2)])
def test_hybrid_sums_no_gradient_of_a_fully_connected_kernel_over_devices(
    tiny: Config, images: np.ndarray, sizes: tuple[int, int]
) -> None:
    """In the compiled program: of all parameters only the convolutions' and fc8's bias (three numbers) are summed."""
    summed, config = {}, replace(tiny, model=replace(tiny.model, fc7=Dense(24)))  # no two arrays have the same shape
    for kind in get_args(Layout):
        there = make_side(config, (*sizes, kind))
        program = there.both.lower(there.params, images, KEY).compile().as_text()  # type: ignore[attr-defined]
        summed[kind] = {shape for shape in summed_shapes(program) if len(shape) != 1}
        held = {layer: there.params[layer]["kernel"].sharding.shard_shape(there.params[layer]["kernel"].shape)
                for layer in there.params}  # fmt: skip
        convolutions = {held[layer] for layer in held if layer.startswith("conv")}
        assert convolutions <= summed[kind]
        if kind == "columns":
            assert {held["fc6"], held["fc7"], held["fc8"]} <= summed[kind], "else this test sees nothing"
        else:
            assert math.prod(held["fc7"]) == 16 * 24 / math.prod(sizes), "every device holds its share"
            assert not {held["fc6"], held["fc7"], held["fc8"]} & summed[kind]
            assert summed[kind] <= convolutions | {(BATCH // sizes[0], 3), ()}, "and the logits, and the loss"


def test_hybrid_says_what_it_cannot_cut(tiny: Config) -> None:
    odd = replace(tiny.model, fc7=replace(tiny.model.fc7, units=18))
    with pytest.raises(BadInput, match="fc7 has 18 units, which 4 devices cannot share equally; give a --mesh whose"):
        alexnet.forward(odd, alexnet.make_mesh(4, 1), layout="hybrid")
    assert alexnet.forward(odd, alexnet.make_mesh(2, 1), layout="hybrid")
    few = replace(tiny.model, fc6=replace(tiny.model.fc6, units=6))
    with pytest.raises(BadInput, match="fc6 has 6 units, which 4 devices"):
        alexnet.shard({}, few, alexnet.make_mesh(2, 2), layout="hybrid")
    wider: dict[str, Any] = {name: replace(conv, kernels=6) for name, conv in tiny.model.convs.items()}
    wider |= {"fc6": Dense(12), "fc7": Dense(12)}
    three = replace(tiny.model, columns=3, meet=(), **wider)
    with pytest.raises(
        BadInput, match="3 columns whose fully connected layers do not meet cannot be cut by a data axis of 2"
    ):
        alexnet.forward(three, alexnet.make_mesh(2, 1), layout="hybrid")
    for name in ("tutorial", "cifar"):
        with pytest.raises(BadInput, match=f"the layout hybrid is for networks with fc6 and fc7, not for {name}"):
            alexnet.forward(alexnet.preset(name).model, alexnet.make_mesh(2, 1), layout="hybrid")
    with pytest.raises(BadInput, match="layout is 'rows'; give one of columns, hybrid"):
        alexnet.features(tiny.model, layout="rows")  # type: ignore[arg-type]


def test_four_columns_give_the_same_numbers_on_one_two_and_four_devices(tiny: Config, images: np.ndarray) -> None:
    four = replace(tiny, model=replace(tiny.model, columns=4, meet=("conv2", "fc6")))
    here = make_side(four, None)
    loss, gradient = here.both(here.params, images, KEY)
    for layout in ((1, 4), (2, 2), (1, 2)):
        there = make_side(four, layout, here.params)
        loss_there, gradient_there = there.both(there.params, images, KEY)
        assert float(loss) == pytest.approx(float(loss_there), rel=1e-5)
        assert relative(gradient, gradient_there) < 1e-3


@pytest.mark.parametrize("layout", [None, (1, 2)])
def test_columns_do_not_see_each_other_before_conv3(
    tiny: Config, tiny_params: Any, images: np.ndarray, layout: tuple[int, int] | None
) -> None:
    model, params, mesh = tiny.model, tiny_params, layout and alexnet.make_mesh(*layout)
    changed = params | {
        "conv1": {"kernel": params["conv1"]["kernel"].at[..., 4:].add(0.01), "bias": params["conv1"]["bias"]}
    }
    features = alexnet.features(model, mesh)
    if mesh:
        params, changed = alexnet.shard(params, model, mesh), alexnet.shard(changed, model, mesh)
    before, after = (jax.device_get(features(p, images)) for p in (params, changed))
    for name in ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2"):
        half = before[name].shape[-1] // 2
        np.testing.assert_array_equal(before[name][..., :half], after[name][..., :half], err_msg=name)
        assert not np.array_equal(before[name][..., half:], after[name][..., half:]), name
    for half in (slice(0, 4), slice(4, 8)):
        assert not np.array_equal(before["conv3"][..., half], after["conv3"][..., half])


@pytest.mark.parametrize("kind", get_args(Layout))
def test_features_have_all_channels_in_column_order_on_any_layout(
    tiny: Config, tiny_params: Any, images: np.ndarray, kind: Layout
) -> None:
    model, params, mesh = tiny.model, tiny_params, alexnet.make_mesh(2, 2)
    here = alexnet.features(model)(params, images)
    there = alexnet.features(model, mesh, layout=kind)(alexnet.shard(params, model, mesh, layout=kind), images)
    assert set(here) == {
        "conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8",
    }  # fmt: skip
    for name in here:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(here["fc8"], alexnet.forward(model)(params, images))


def test_dropout_scales_where_the_config_says(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    """The paper halves activations at test time; inverted dropout doubles them in training."""
    key, params = jax.random.key(1), tiny_params
    inverted = replace(tiny.model, dropout_scale="train")
    off = replace(tiny.model, dropout=0.0)
    plain = alexnet.forward(off)(params, images)
    np.testing.assert_array_equal(alexnet.forward(inverted)(params, images), plain)
    assert not np.allclose(alexnet.forward(tiny.model)(params, images), plain, rtol=1e-2)
    # Two dropout layers, and no biases: inverted dropout gives four times the logits.
    ours = alexnet.forward(tiny.model)(params, images, key=key, train=True)
    theirs = alexnet.forward(inverted)(params, images, key=key, train=True)
    np.testing.assert_allclose(4 * ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(alexnet.forward(off)(params, images, train=True), plain)


def test_callers_can_jit_differentiate_and_vmap_the_network(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    forward, params = alexnet.forward(tiny.model), tiny_params
    expected = forward(params, images)
    np.testing.assert_allclose(jax.jit(forward)(params, images), expected, rtol=1e-5, atol=1e-5)
    mapped = jax.vmap(lambda pair: forward(params, pair))(images.reshape(4, 2, 28, 28, 1))
    np.testing.assert_allclose(mapped.reshape(BATCH, -1), expected, rtol=1e-4, atol=1e-4)
    saliency = jax.grad(lambda x: forward(params, x)[:, 0].sum())(jnp.asarray(images))
    assert saliency.shape == images.shape
    assert float(jnp.abs(saliency).max()) > 0


@pytest.mark.parametrize(
    ("activation", "then"),
    [
        ("tanh", ("norm", "pool", "activation")),
        ("sigmoid", ("pool", "activation", "map_norm")),
        ("gelu", ("norm", "pool", "activation")),
    ],
)
def test_the_operations_after_a_convolution_run_in_the_order_of_the_config(
    tiny: Config, tiny_params: Any, images: np.ndarray, activation: Any, then: Any
) -> None:
    from alexnet_jax.networks import layers, pooling

    model = replace(tiny.model, activation=activation, conv1=replace(tiny.model.conv1, then=then))
    acts = alexnet.features(model)(tiny_params, images)
    act = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "gelu": jax.nn.gelu}[activation]
    if then[0] == "norm":
        norm1 = layers.lrn(acts["conv1"], model.lrn, 2)
        np.testing.assert_allclose(acts["norm1"], norm1, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(acts["pool1"], act(pooling.pool(norm1, model.pool)), rtol=1e-5, atol=1e-6)
    else:
        pool1 = act(pooling.pool(acts["conv1"], model.pool))
        np.testing.assert_allclose(acts["pool1"], pool1, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(acts["norm1"], layers.map_norm(pool1, model.map_norm), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [None, (1, 2)])
def test_the_callers_normalisation_replaces_lrn_in_each_column(
    tiny: Config, tiny_params: Any, images: np.ndarray, sizes: tuple[int, int] | None
) -> None:
    def norm(x: jax.Array) -> jax.Array:
        return x - x.mean(axis=-1, keepdims=True)

    mesh, model, params = alexnet.make_mesh(*sizes) if sizes else None, tiny.model, tiny_params
    acts = alexnet.features(model, mesh, norm=norm)(params, images)
    relu = np.asarray(jax.nn.relu(acts["conv1"]))
    first, second = np.split(relu, 2, axis=-1)
    expected = np.concatenate([first - first.mean(-1, keepdims=True), second - second.mean(-1, keepdims=True)], axis=-1)
    np.testing.assert_allclose(acts["norm1"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alexnet.forward(model, mesh, norm=norm)(params, images), acts["fc8"], rtol=1e-5)
    off = replace(model, norm=False)
    assert "norm1" not in alexnet.features(off, mesh, norm=norm)(params, images), "model.norm=False switches it off"


def test_norm_false_removes_the_normalisation(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    acts = alexnet.features(replace(tiny.model, norm=False))(tiny_params, images)
    assert not [name for name in acts if name.startswith("norm")]


def test_bad_input_is_refused_with_its_reason(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    params = tiny_params
    with pytest.raises(BadInput, match=r"images are \(8, 27, 28, 1\); the network takes \[B, 28, 28, 1\]"):
        alexnet.forward(tiny.model)(params, images[:, 1:])
    with pytest.raises(BadInput, match="needs a key"):
        alexnet.forward(tiny.model)(params, images, train=True)
    with pytest.raises(BadInput, match="a batch of 7 cannot be shared by a data axis of 2"):
        alexnet.forward(tiny.model, alexnet.make_mesh(2, 2))(params, images[:7])
    with pytest.raises(BadInput, match=r"needs 16 devices and there are 4 \(cpu\); set JAX_NUM_CPU_DEVICES=16"):
        alexnet.make_mesh(8, 2)
    with pytest.raises(BadInput, match="a mesh of 0,2 is empty"):
        alexnet.make_mesh(0, 2)
    with pytest.raises(BadInput, match=r"1 column\(s\) cannot be laid over 2 devices"):
        alexnet.forward(replace(tiny.model, columns=1), alexnet.make_mesh(1, 2))


@pytest.mark.parametrize(
    ("backend", "devices", "sizes"),
    [
        ("cpu", 4, {1: (1, 1), 2: (1, 2), 4: (1, 1)}),
        ("cpu", 1, {1: (1, 1), 2: (1, 1), 4: (1, 1)}),
        ("gpu", 4, {1: (4, 1), 2: (2, 2), 4: (1, 1)}),
        ("gpu", 1, {1: (1, 1), 2: (1, 1), 4: (1, 1)}),
    ],
)
def test_the_default_mesh_suits_the_machine(
    backend: str, devices: int, sizes: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU devices share the same cores, so there is nothing to gain from more devices than columns."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    found = {columns: suitable_mesh(columns).devices.shape for columns in sizes}
    assert found == sizes
    assert suitable_mesh(2, "hybrid").devices.shape == (devices, 1)


def test_the_table_shows_what_each_layer_reads(tiny: Config) -> None:
    def reads(model: Any) -> dict[str, str]:
        return {row.layer: row.reads for row in functional.describe(model)}

    own, every = "its own column", "all columns"
    assert reads(tiny.model) == {
        "conv1": "the image", "conv2": own, "conv3": every, "conv4": own, "conv5": own,
        "fc6": every, "fc7": every, "fc8": every,
    }  # fmt: skip
    assert set(reads(replace(tiny.model, columns=1)).values()) == {"the image", "everything"}


def test_lrn_across_columns_is_the_same_on_any_layout_and_differs_from_lrn_within_columns(
    tiny: Config, tiny_params: Any, images: np.ndarray
) -> None:
    """Values and gradients in float64. The window is seven maps wide, so that it reaches far into the other column."""
    norm = replace(tiny.model.lrn, n=7, alpha=1.0)
    model = replace(tiny.model, lrn_across_columns=True, lrn=norm, dropout=0.0)
    config = replace(tiny, model=model)
    with jax.enable_x64(True):
        params, wide = to_float64(tiny_params), images.astype(np.float64)
        loss, gradient = make_side(config, None, params).both(params, wide, KEY)
        for layout in LAYOUTS:
            there = make_side(config, layout, params)
            loss_there, gradient_there = there.both(there.params, wide, KEY)
            assert float(loss) == pytest.approx(float(loss_there), rel=1e-9)
            assert relative(gradient, gradient_there) < 1e-9
        apart = alexnet.forward(replace(model, lrn_across_columns=False))(params, wide)
        assert relative(alexnet.forward(model)(params, wide), apart) > 1e-3


def test_lrn_across_columns_exchanges_only_the_border_maps(tiny: Config, tiny_params: Any, images: np.ndarray) -> None:
    """Each of the two norms sends a few maps to the left and a few to the right."""
    model, mesh = replace(tiny.model, lrn_across_columns=True), alexnet.make_mesh(1, 2)
    params = alexnet.shard(tiny_params, model, mesh)
    compiled = alexnet.forward(model, mesh).lower(params, images).compile().as_text()  # type: ignore[attr-defined]
    assert collectives(compiled) == {"all-gather": 3, "all-reduce": 1, "collective-permute": 4}


def test_the_sixth_convolution_reads_all_columns(tiny: Config, images: np.ndarray) -> None:
    model, mesh = replace(tiny.model, conv6=Conv(8, 3, padding=(1, 1), std=0.2)), alexnet.make_mesh(1, 2)
    params = alexnet.init(model, jax.random.key(0))
    assert params["conv6"]["kernel"].shape == (3, 3, 8, 8)
    there = alexnet.shard(params, model, mesh)
    forward = alexnet.forward(model, mesh)
    np.testing.assert_allclose(alexnet.forward(model)(params, images), forward(there, images), rtol=1e-4, atol=1e-5)
    compiled = forward.lower(there, images).compile().as_text()  # type: ignore[attr-defined]
    assert collectives(compiled) == {"all-gather": 4, "all-reduce": 1}


@pytest.mark.parametrize("kind", get_args(Layout))
def test_dropout_before_fc6_is_the_same_on_any_layout(
    tiny: Config, tiny_params: Any, images: np.ndarray, kind: Layout
) -> None:
    """As in torchvision. What fc6 reads are maps; their masks, too, must depend on the image and the column only."""
    model = replace(tiny.model, dropout_before=("fc6", "fc7"), dropout_scale="train")
    key, params, mesh = jax.random.key(3), tiny_params, alexnet.make_mesh(2, 2)
    here = alexnet.forward(model)(params, images, key=key, train=True)
    spread = alexnet.shard(params, model, mesh, layout=kind)
    there = alexnet.forward(model, mesh, layout=kind)(spread, images, key=key, train=True)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)
    late = alexnet.forward(replace(model, dropout_before=("fc7",)))(params, images, key=key, train=True)
    assert not np.allclose(here, late, rtol=1e-2)
