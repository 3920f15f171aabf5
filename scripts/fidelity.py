"""Writes docs/fidelity.md: every choice that goes into a preset, the value in each preset, and the source.

python scripts/fidelity.py

The values are read from the presets here. The sources and the words of the page are in fidelity.toml.
"""

import dataclasses
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.config import CifarConfig, Config, Conv, Dense, Model, ModelConfig, Pool, Schedule, TutorialConfig
from alexnet_jax.config.presets import PRESETS
from alexnet_jax.networks import functional

PAGE = Path(__file__).parent.parent / "docs" / "fidelity.md"
WORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


# -------------------------------------------------- the values, from a Config; None if its network has no such thing


def number(x: float) -> str:
    """Three digits, and 2e-5 for 0.00002."""
    if 0 < abs(x) < 1e-3:
        mantissa, exponent = f"{x:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{x:.3g}"


def by_layer(values: dict[str, str]) -> str:
    """One value if all layers have the same, otherwise a line for each value with its layers."""
    names: dict[str, list[str]] = {}
    for layer, value in values.items():
        names.setdefault(value, []).append(layer)
    if len(names) == 1:
        return next(iter(names))
    return "<br>".join(f"{value}: {', '.join(its)}" for value, its in names.items())


describe = cache(functional.describe)


def layers(model: Model) -> dict[str, Conv | Dense]:
    """Every layer with parameters, in order."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    found = {name: layer for name, layer in fields.items() if isinstance(layer, Conv | Dense)}
    if isinstance(model, TutorialConfig) and model.std is not None:
        return {n: dataclasses.replace(layer, std=model.std, bias_std=model.std) for n, layer in found.items()}
    return found


def pools(model: Model) -> dict[str, Pool]:
    """Every pooling layer, by its name."""
    names = [name.replace("conv", "pool") for name, conv in model.convs.items() if "pool" in conv.then]
    return {name: getattr(model, name if isinstance(model, CifarConfig) else "pool") for name in names}


def padding(config: Config) -> str:
    before, after = config.model.conv1.padding
    if before == after:
        return f"{before} on every side" if before else "none"
    return ("" if not before else f"{before} above and on the left, ") + f"{after} below and on the right"


def meeting(config: Config) -> str | None:
    if config.model.columns == 1:
        return None
    return ", ".join(row.layer for row in describe(config.model) if row.reads == "all columns")


def kernels(config: Config) -> str:
    convs = config.model.convs
    shared, local = ("-".join(str(c.kernels) for n, c in convs.items() if n.startswith(kind)) for kind in "cl")
    return f"{shared}<br>local: {local}" if local else shared


def kernel_sizes(config: Config) -> str:
    return "-".join(f"{c.size}" + (f"/{c.stride}" if c.stride > 1 else "") for c in config.model.convs.values())


def units(config: Config) -> str:
    return "-".join(str(layer.units) for layer in layers(config.model).values() if isinstance(layer, Dense))


def activation(model: Model) -> str:
    return model.activation.replace("relu", "ReLU")


def last_window(config: Config) -> str:
    model = config.model
    side = {row.layer.replace("conv", "pool"): row.output[0] for row in describe(model)}
    left_out = [name for name in pools(model) if isinstance(model, ModelConfig) and name not in model.ragged]
    found = {}
    for name, pool in pools(model).items():
        fits = (side[name] - pool.size) % pool.stride == 0
        found[name] = "fits" if fits else "is left out" if name in left_out else "reaches past the border"
    return by_layer(found)


def order(model: Model, conv: str) -> str:
    names = {"activation": activation(model), "pool": "pooling", "batch_norm": "batch normalisation"}
    names |= {"norm": "LRN", "map_norm": "same-map normalisation"} if model.norm else {}
    kept = [names[step] for step in model.convs[conv].then if step in names]
    # The tutorial's dropout follows every convolution.
    drops = isinstance(model, TutorialConfig) and model.dropout > 0
    return ", ".join(kept + ["dropout"] * drops)


def order_last(config: Config) -> str | None:
    """None if the last pooled convolution is conv1 or conv2, which have rows of their own."""
    conv = list(pools(config.model))[-1].replace("pool", "conv")
    return None if conv in ("conv1", "conv2") else f"{conv}: {order(config.model, conv)}"


def has(model: Model, norm: str) -> bool:
    return model.norm and any(norm in conv.then for conv in model.convs.values())


def lrn(model: Model, field: str) -> str | None:
    return number(getattr(model.lrn, field)) if has(model, "norm") else None


def lrn_border(config: Config) -> str | None:
    model = config.model
    if not isinstance(model, ModelConfig) or model.columns == 1 or not has(model, "norm"):
        return None
    return "reach across it" if model.lrn_across_columns else "stop there"


def map_norm(config: Config) -> str | None:
    model = config.model
    if not isinstance(model, ModelConfig) or not has(model, "map_norm"):
        return "none" if has(model, "norm") else None
    norm, names = model.map_norm, [name for name, conv in model.convs.items() if "map_norm" in conv.then]
    shape = f"{norm.n}x{norm.n}, k {number(norm.k)}, alpha {number(norm.alpha)}, beta {number(norm.beta)}"
    return f"{', '.join(names)}: {shape}"


def batch_norm(config: Config) -> str | None:
    model = config.model
    names = [name for name, conv in model.convs.items() if "batch_norm" in conv.then]
    if not isinstance(model, ModelConfig) or not names:
        return None
    norm = model.batch_norm
    return f"{', '.join(names)}: momentum {number(norm.momentum)}, epsilon {number(norm.epsilon)}"


def dropout(model: Model) -> float:
    return 0.0 if isinstance(model, CifarConfig) else model.dropout


def dropped(config: Config) -> str | None:
    model = config.model
    if not dropout(model):
        return None
    # In the tutorial every layer that reads a convolution.
    its = model.dropout_before if isinstance(model, ModelConfig) else list(layers(model))[1 : len(model.convs) + 1]
    return ", ".join(its)


def dropout_scale(config: Config) -> str | None:
    model, keep = config.model, 1 - dropout(config.model)
    if keep == 1:
        return None
    at_test = isinstance(model, ModelConfig) and model.dropout_scale == "test"
    return f"x {number(keep)} at test time" if at_test else f"x {number(1 / keep)} in training"


def initial_bias(config: Config) -> str:
    drawn = {name: (number(layer.bias), number(layer.bias_std)) for name, layer in layers(config.model).items()}
    return by_layer({name: bias if std == "0" else f"N({bias}, {std}^2)" for name, (bias, std) in drawn.items()})


def decays(config: Config) -> dict[str, float]:
    own = dict(config.optim.layer_decays)
    return {name: own.get(name, config.optim.decay) for name in layers(config.model)}


def decay(config: Config) -> str:
    found = decays(config)
    return by_layer({name: number(value) for name, value in found.items()}) if any(found.values()) else "none"


def bias_decay(config: Config) -> str | None:
    if not any(decays(config).values()):
        return None
    return "same as the weights" if config.optim.decay_biases else "none"


def rule(config: Config) -> str:
    optim = config.optim
    rules = {"sgd": f"SGD, momentum {number(optim.momentum)}"}
    rules["lars"] = f"LARS, trust {number(optim.trust)}, momentum {number(optim.momentum)}"
    return rules.get(optim.rule, optim.rule.capitalize())


def schedule(its: Schedule | None) -> str:
    if its is None:
        return "same as the weights"
    factor, epochs = number(its.factor), ", ".join(map(number, its.epochs))
    rise = f"from 0 over {number(its.warmup)} epochs, " if its.warmup else ""
    return (
        rise
        + {
            "constant": "constant",
            "steps": f"divided by {factor} at epochs {epochs}",
            "staircase": f"{its.stairs} stairs of equal length, the last at 1/{factor}",
            "plateau": f"divided by {factor} after {its.patience} epochs without a lower validation error, "
            f"up to {its.drops} times",
            "cosine": "half a wave of the cosine",
            "poly": f"(what is left of the run)^{number(its.power)}",
        }[its.kind]
    )


def crops(config: Config) -> str:
    data = config.data
    room = WORDS["presets"][config.preset]["stored"] + 2 * data.pad - config.model.image_size
    where = "the whole image" if room == 0 else f"{room + 1}x{room + 1}" if data.crop else "the centre"
    return f"{where}, with {data.pad} zeros on every side" if data.pad else where


def crop_run(config: Config) -> str | None:
    data = config.data
    if not data.crop and not data.flip:
        return None
    return "drawn for each image" if data.crop_run == 1 else f"shared by {data.crop_run} consecutive images"


def noise_until(config: Config) -> str | None:
    if config.data.colour_noise == "none":
        return None
    epoch = config.data.colour_noise_until
    return "the end" if epoch is None else f"epoch {number(epoch)}"


VALUES: dict[str, Callable[[Config], str | None]] = {
    "input": lambda c: f"{c.model.image_size}x{c.model.image_size}x{c.model.channels}",
    "padding": padding,
    "conv1_maps": lambda c: "x".join(map(str, describe(c.model)[0].output[:2])),
    "columns": lambda c: str(c.model.columns),
    "meeting": meeting,
    "kernels": kernels,
    "kernel_sizes": kernel_sizes,
    "units": units,
    "activation": lambda c: activation(c.model),
    "pooling": lambda c: by_layer({n: f"{p.kind} {p.size}x{p.size}/{p.stride}" for n, p in pools(c.model).items()}),
    "last_window": last_window,
    "order_conv1": lambda c: order(c.model, "conv1"),
    "order_conv2": lambda c: order(c.model, "conv2"),
    "order_last": order_last,
    "parameters": lambda c: f"{sum(row.parameters for row in describe(c.model)):,}",
    "multiply_adds": lambda c: f"{sum(row.multiply_adds for row in describe(c.model)):,}",
    "lrn_k": lambda c: lrn(c.model, "k"),
    "lrn_n": lambda c: lrn(c.model, "n"),
    "lrn_alpha": lambda c: lrn(c.model, "alpha"),
    "lrn_beta": lambda c: lrn(c.model, "beta"),
    "lrn_border": lrn_border,
    "map_norm": map_norm,
    "batch_norm": batch_norm,
    "dropout": lambda c: number(dropout(c.model)) if dropout(c.model) else "none",
    "dropped": dropped,
    "dropout_scale": dropout_scale,
    "initial_std": lambda c: by_layer({name: number(layer.std) for name, layer in layers(c.model).items()}),
    "initial_bias": initial_bias,
    "batch": lambda c: str(c.optim.batch),
    "rule": rule,
    "rate": lambda c: number(c.optim.rate),
    "layer_rates": lambda c: "<br>".join(f"{name}: x {number(x)}" for name, x in c.optim.layer_rates) or "none",
    "bias_rate": lambda c: "same as the weights" if c.optim.bias_rate == 1 else f"x {number(c.optim.bias_rate)}",
    "schedule": lambda c: schedule(c.optim.schedule),
    "bias_schedule": lambda c: schedule(c.optim.bias_schedule),
    "frozen": lambda c: "never" if c.optim.freeze_conv1 is None else f"from epoch {number(c.optim.freeze_conv1)}",
    "decay": decay,
    "bias_decay": bias_decay,
    "length": lambda c: f"{number(c.optim.epochs)} epochs",
    "square": lambda c: {"crop": "its centre is cut out", "warp": "both sides are scaled"}[c.data.square],
    "scale": lambda c: f"0 to {number(255 * c.data.scale)}",
    "mean": lambda c: {
        "none": "none",
        "pixel": "the mean image, cropped like the image",
        "centre": "the central crop of the mean image, whatever the crop",
    }[c.data.mean],
    "crops": crops,
    "flips": lambda c: "half of the images" if c.data.flip else "none",
    "crop_run": crop_run,
    "colour_noise": lambda c: {
        "none": "none",
        "eigenvalue": "0.1 x the eigenvalue, for pixels from 0 to 1",
        "stdev": "0.1 x the standard deviation, then the image is divided by 1.1",
    }[c.data.colour_noise],
    "noise_until": noise_until,
    "image_order": lambda c: "new every epoch" if c.data.reshuffle else "always the same",
}


# ----------------------------------------------------------------------------------------------------------- the page


class Row(NamedTuple):
    """A choice of the page."""

    choice: str
    value: Callable[[Config], str | None]
    sources: dict[str, str] | str
    """preset -> its tags, or one tag for every preset"""

    def tags(self, preset: str) -> list[str]:
        """The preset's own or those of the preset it follows. Raises KeyError if there are none."""
        presets, tags, own = WORDS["presets"], self.sources, preset
        if isinstance(tags, dict):
            while own not in tags:
                if "follows" not in presets.get(own, {}):
                    raise KeyError(f"the choice {self.choice!r} of {preset} has no source")
                own = presets[own]["follows"]
            tags = tags[own]
        return [tag.replace("*", presets[preset].get("files", "*")) for tag in tags.split(", ")]

    def lines(self, presets: dict[str, Config]) -> list[str]:
        """A line of the table for each value, with the presets that have it and their sources."""
        found: dict[str, dict[str, list[str]]] = {}
        for config in presets.values():
            if (value := self.value(config)) is not None:
                cited = " ".join(f"[{tag}]" for tag in self.tags(config.preset))
                found.setdefault(value, {}).setdefault(cited, []).append(f"`{config.preset}`")
        cells = ["; ".join(f"{', '.join(names)} {cited}" for cited, names in its.items()) for its in found.values()]
        first = [self.choice] + [""] * (len(found) - 1)
        return [f"| {choice} | {value} | {cell} |" for choice, value, cell in zip(first, found, cells, strict=True)]


def row_of(choice: str, row: str, everywhere: str = "", default: str = "", **own: str) -> Row:
    """What a table [choices.SUBJECT.CHOICE] says."""
    sources = WORDS["defaults"][default] | own if default else own
    return Row(row, VALUES[choice], everywhere or sources)


TABLES = {
    subject: [row_of(choice, **its) for choice, its in choices.items()] for subject, choices in WORDS["choices"].items()
}

LINKS = {
    tag: f"https://github.com/{repository['name']}/blob/{repository['version']}/{path}"
    for repository in WORDS["repositories"]
    for tag, path in repository["files"].items()
} | {tag: document["url"] for tag, document in WORDS["documents"].items()}

KEY = {"P", *LINKS, *WORDS["words"]}
"""what a tag may be; P is followed by a section"""


def page(presets: dict[str, Config] = PRESETS) -> str:
    """The whole of docs/fidelity.md. Raises KeyError if a choice has no source."""
    # This project's own presets come last.
    shown = dict(sorted(presets.items(), key=lambda item: item[0] in ("fashion", "fashion_best")))
    text, left, paper = WORDS["page"], WORDS["left_out"], WORDS["paper"]
    lines = [f"# {text['title']}\n", text["introduction"]]
    for subject, its in WORDS["subjects"].items():
        lines += [f"## {its['heading']}\n", its["note"], "| choice | value | presets and sources |", "|---|---|---|"]
        lines += [line for row in TABLES[subject] for line in row.lines(shown)] + [""]
    sections = sorted(set(re.findall(r"\[(P [\d.]+)\]", "\n".join(lines))))
    links = dict.fromkeys(sections, paper["url"]) | LINKS
    lines += [f"## {left['heading']}\n", left["text"], "## Sources\n", *explanations(), ""]
    return "\n".join([*lines, *(f"[{tag}]: {url}" for tag, url in links.items()), ""])


def explanations() -> list[str]:
    paper = WORDS["paper"]
    lines = [f"- P and a section: [the paper]({paper['url']}), {paper['what']}"]
    for repository in WORDS["repositories"]:
        lines.append(f"- {repository['what']}: {repository['name']}, {repository['version'][:7]}")
        lines += [f"  - [{tag}] {path}" for tag, path in repository["files"].items()]
    lines += [f"- [{tag}] {document['what']}" for tag, document in WORDS["documents"].items()]
    return lines + [f"- [{word}] {what}" for word, what in WORDS["words"].items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
