"""Two drawings, by Matplotlib: a network on its devices as in the paper's Figure 2, and the times of its layouts.

The background is transparent and every colour is of middle brightness, so that both are readable on dark pages and on
light ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

from alexnet_jax.config import BadInput, Config, ModelConfig
from alexnet_jax.networks import functional, links, traffic

INK, EXCHANGE = "#808080", "#9467e0"
LANES = ("#3f87d0", "#d07a2d", "#2f9e63", "#c4568f")


@contextmanager
def drawn(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Axes whose drawing is saved in `path`. Raises BadInput if it cannot be."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("drawings need Matplotlib; install alexnet_jax[plots]") from None
    if path.suffix not in (".svg", ".png"):
        raise BadInput(f"{path} ends in neither .svg nor .png")
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    with mpl.rc_context(dict.fromkeys(names, INK) | {"svg.hashsalt": "alexnet_jax"}):
        figure = Figure(figsize=size)
        yield figure.subplots()
        metadata = {"Date": None} if path.suffix == ".svg" else None  # the same drawing is the same file
        figure.savefig(path, bbox_inches="tight", transparent=True, dpi=150, metadata=metadata)


def draw_times(path: Path, config: Config, each: int, name: str, link: links.Link, flops: float) -> None:
    """Time on the link for each layout over the number of devices, beside the time of the arithmetic."""
    with drawn(path, (7, 4)) as axes:
        for (layout, times), marker in zip(links.scaling(config, each, link.seconds).items(), "osD^v", strict=False):
            axes.plot(list(times), [1e3 * seconds for seconds in times.values()], marker=marker, label=layout)
        arithmetic = 1e3 * links.arithmetic_seconds(config, each, 1, flops)
        axes.axhline(arithmetic, color=INK, linestyle="--", label="arithmetic")
        axes.set(xlabel=f"devices, {each} images on each", ylabel="ms a step on the link", yscale="log")
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(1, 11)]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_title(f"{config.preset}, {name}: {link.gigabytes_per_second:g} GB/s, {link.microseconds:g} us")
        axes.grid(color=INK, alpha=0.2)
        axes.legend(frameon=False)


def draw_network(path: Path, config: Config, devices: traffic.Devices, batch: int) -> None:
    """Every device with its part of every layer, and an arrow for what passes between them before a layer.

    The layout `columns` with a data axis is drawn once. Raises BadInput for networks without fc6 and fc7 and for more
    than four devices that differ.
    """
    model = config.model
    if not isinstance(model, ModelConfig):
        raise BadInput(f"--figure draws networks with fc6 and fc7, not {model.network}")
    lanes = devices.number if devices.hybrid else devices.columns
    if lanes > len(LANES):
        raise BadInput(f"--figure draws up to {len(LANES)} devices, and here are {lanes}")
    planned = traffic.plan(config, devices, batch)
    shapes = {name: act.shape[1:] for name, act in functional.activation_shapes(model).items()}
    layers = [*model.convs, "fc6", "fc7"]
    sent = {
        layer: sum(one.bytes for one in planned if (one.layer, one.direction) == (layer, "forward"))
        * devices.data
        // batch
        for layer in (*layers, "fc8")
    }
    at: dict[str, float] = {}
    x = 0.6
    for layer in sent:
        x += 2.4 if sent[layer] else 1.5
        at[layer] = x
    heights = [1.5 * (lanes - 1) / 2 - 1.5 * lane for lane in range(lanes)]
    top = heights[0] + 1.1

    def held(layer: str) -> str:
        *space, channels = shapes[layer]
        parts = devices.number if layer.startswith("fc") and devices.hybrid else devices.columns
        return "x".join(map(str, (*space, channels // parts)))

    def meet(layer: str, a: int, b: int) -> bool:
        """Whether two devices exchange before a layer: in convolutions only the columns of the same images do."""
        return layer.startswith("fc") or a // devices.columns == b // devices.columns

    with drawn(path, (0.8 * x + 1, 1.1 * lanes + 1.9)) as axes:
        axes.text(0, 0, f"{model.image_size}x{model.image_size}x{model.channels}\nimages", **_centred(9, INK))
        for lane, (y, colour) in enumerate(zip(heights, LANES, strict=False)):
            _arrow(axes, (0.6, 0.15 * y), (at["conv1"] - 0.6, y), INK)
            for layer in layers:
                _box(axes, at[layer], y, colour, layer, held(layer))
            axes.text(at["conv1"] - 0.55, y + 0.58, _lane_name(lane, devices), color=colour, fontsize=8.5, va="center")
        for left, right in pairwise(layers):
            ends = at[left] + 0.6, at[right] - 0.6
            for y in heights:
                _arrow(axes, (ends[0], y), (ends[1], y), INK)
            if sent[right]:
                for a, b in permutations(range(lanes), 2):
                    if meet(right, a, b):
                        _arrow(axes, (ends[0], heights[a]), (ends[1], heights[b]), EXCHANGE)
                axes.text(sum(ends) / 2, top, f"exchange\n{sent[right]:,} B", **_centred(8.5, EXCHANGE))
        for y in heights:
            ends = at["fc7"] + 0.6, at["fc8"] - 0.45
            _arrow(axes, (ends[0], y), (ends[1], 0.25 * y), EXCHANGE if sent["fc8"] else INK)
        if sent["fc8"]:
            axes.text(sum(ends) / 2, top, f"sum\n{sent['fc8']:,} B", **_centred(8.5, EXCHANGE))
        axes.text(at["fc8"], 0, f"fc8\n{model.classes:,}\nlogits", **_centred(9, INK))
        axes.text(at["conv1"] - 0.55, heights[-1] - 0.75, _caption(planned), color=INK, fontsize=8, va="center")
        axes.set(xlim=(-0.7, x + 0.6), ylim=(heights[-1] - 1.0, top + 0.4))
        axes.axis("off")


def _caption(planned: list[traffic.Collective]) -> str:
    said = []
    if any(one.direction == "forward" for one in planned):
        said.append("Bytes that leave a device forward, for each of its images.")
    gradients = sum(one.bytes for one in planned if one.direction == "gradients")
    if gradients:
        said.append(f"After every step the sums of gradients: {gradients / 1e6:,.1f} MB from each device.")
    return " ".join(said)


def _lane_name(lane: int, devices: traffic.Devices) -> str:
    if not devices.hybrid:
        each = "" if devices.data == 1 else f", {devices.data} times"
        return f"column {lane} on device {lane}{each}" if devices.columns > 1 else f"one device{each}"
    data, column = divmod(lane, devices.columns)
    part = f"device {lane}, images {data + 1}/{devices.data}"
    return part + (f", column {column}" if devices.columns > 1 else "")


def _box(axes: Any, x: float, y: float, colour: str, name: str, shape: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"boxstyle": "round,pad=0.04", "facecolor": f"{colour}2a", "edgecolor": colour}
    axes.add_patch(FancyBboxPatch((x - 0.55, y - 0.38), 1.1, 0.76, **style))
    axes.text(x, y + 0.14, name, weight="bold", **_centred(9.5, colour))
    axes.text(x, y - 0.17, shape, **_centred(8, INK))


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2})


def _centred(size: float, colour: str) -> dict[str, Any]:
    return {"ha": "center", "va": "center", "fontsize": size, "color": colour}
