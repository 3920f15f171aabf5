"""docs/fidelity.md: what every preset makes of every disputed choice, and where that comes from.

python scripts/fidelity.py
"""

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.config import (
    CifarConfig,
    Config,
    Conv,
    Dense,
    Model,
    ModelConfig,
    Pool,
    Schedule,
    TutorialConfig,
    pooled,
    sides,
)
from alexnet_jax.config.presets import PRESETS
from alexnet_jax.networks import functional

PAGE = Path(__file__).parent.parent / "docs" / "fidelity.md"

ABSENT = "-"
"""the cell of a choice that a network does not have"""


# --------------------------------------------------------------------------------- the choices, read from a Config


def number(x: float) -> str:
    """Three digits, and 2e-5 for 0.00002."""
    if 0 < abs(x) < 1e-3:
        mantissa, exponent = f"{x:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{x:.3g}"


def by_layer(values: dict[str, str]) -> str:
    """One value for all layers, or a line for each value with its layers."""
    names: dict[str, list[str]] = {}
    for layer, value in values.items():
        names.setdefault(value, []).append(layer)
    if len(names) == 1:
        return next(iter(names))
    return "<br>".join(f"{value}: {', '.join(its)}" for value, its in names.items())


def layers(model: Model) -> dict[str, Conv | Dense]:
    """Every layer with parameters, in order."""
    found = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    return {name: layer for name, layer in found.items() if isinstance(layer, Conv | Dense)}


describe = cache(functional.describe)


def picture(config: Config) -> str:
    size = config.model.image_size
    return f"{size}x{size}x{config.model.channels}"


def zeros(config: Config) -> str:
    before, after = config.model.conv1.padding
    if before == after:
        return f"{before} all around" if before else "none"
    return f"{after} below and right" if not before else f"{before} above and left, {after} below and right"


def conv1_maps(config: Config) -> str:
    side = map_sides(config.model)["conv1"]
    return f"{side}x{side}"


def square(config: Config) -> str:
    return {"crop": "the middle is cut out", "warp": "both sides are scaled"}[config.data.square]


def columns(config: Config) -> str:
    return str(config.model.columns)


def meeting(config: Config) -> str:
    if config.model.columns == 1:
        return ABSENT
    return ", ".join(row.layer for row in describe(config.model) if row.reads == "all columns")


def kernels(config: Config) -> str:
    convs = config.model.convs
    shared, local = ("-".join(str(c.kernels) for n, c in convs.items() if n.startswith(kind)) for kind in "cl")
    return f"{shared}<br>local: {local}" if local else shared


def kernel_sizes(config: Config) -> str:
    return "-".join(f"{c.size}" + (f"/{c.stride}" if c.stride > 1 else "") for c in config.model.convs.values())


def units(config: Config) -> str:
    return "-".join(str(layer.units) for layer in layers(config.model).values() if isinstance(layer, Dense))


ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}


def order(model: Model, name: str) -> str:
    names = {"activation": ACTIVATIONS[model.activation], "norm": "LRN", "map_norm": "same-map norm", "pool": "pool"}
    kept = [step for step in model.convs[name].then if model.norm or "norm" not in step]
    # The tutorial's dropout stands behind every convolution.
    drops = isinstance(model, TutorialConfig) and model.dropout > 0
    return ", ".join([names[step] for step in kept] + ["dropout"] * drops)


def behind(name: str) -> Callable[[Config], str]:
    return lambda config: order(config.model, name)


def behind_last(config: Config) -> str:
    """Behind the last convolution that is pooled, where that is neither of the first two."""
    names = [name for name, conv in config.model.convs.items() if "pool" in conv.then]
    return f"{names[-1]}: {order(config.model, names[-1])}" if len(names) > 2 else ABSENT


def has(model: Model, norm: str) -> bool:
    return model.norm and any(norm in conv.then for conv in model.convs.values())


def lrn(field: str) -> Callable[[Config], str]:
    return lambda config: number(getattr(config.model.lrn, field)) if has(config.model, "norm") else ABSENT


def lrn_border(config: Config) -> str:
    model = config.model
    if not isinstance(model, ModelConfig) or model.columns == 1 or not has(model, "norm"):
        return ABSENT
    return "reaches across" if model.lrn_across_columns else "stops there"


def map_norm(config: Config) -> str:
    model = config.model
    if not isinstance(model, ModelConfig) or not has(model, "map_norm"):
        return "none" if has(model, "norm") else ABSENT
    norm, names = model.map_norm, [name for name, conv in model.convs.items() if "map_norm" in conv.then]
    shape = f"{norm.n}x{norm.n}, k {number(norm.k)}, alpha {number(norm.alpha)}, beta {number(norm.beta)}"
    return f"{', '.join(names)}: {shape}"


def pools(model: Model) -> dict[str, Pool]:
    """Every pooling layer, by its name."""
    names = [name.replace("conv", "pool") for name, conv in model.convs.items() if "pool" in conv.then]
    return {name: getattr(model, name if isinstance(model, CifarConfig) else "pool") for name in names}


def ragged(model: Model) -> tuple[str, ...]:
    """The pooling layers whose last window may reach over the border."""
    return model.ragged if isinstance(model, ModelConfig) else tuple(pools(model))


def map_sides(model: Model) -> dict[str, int]:
    own, reaching = pools(model), ragged(model)
    return sides(model.image_size, model.convs, lambda name, side: pooled(side, own[name], name in reaching))


def pooling(config: Config) -> str:
    return by_layer({name: f"{p.kind} {p.size}x{p.size}/{p.stride}" for name, p in pools(config.model).items()})


def last_window(config: Config) -> str:
    side, reaching = map_sides(config.model), ragged(config.model)
    found = {}
    for name, pool in pools(config.model).items():
        fits = (side[name.replace("pool", "conv")] - pool.size) % pool.stride == 0
        found[name] = "fits" if fits else "reaches over the border" if name in reaching else "is left out"
    return by_layer(found)


def activation(config: Config) -> str:
    return ACTIVATIONS[config.model.activation]


def dropout_rate(model: Model) -> float:
    return 0.0 if isinstance(model, CifarConfig) else model.dropout


def dropout(config: Config) -> str:
    return number(dropout_rate(config.model)) if dropout_rate(config.model) else "none"


def dropped(config: Config) -> str:
    model = config.model
    if isinstance(model, CifarConfig) or not model.dropout:
        return ABSENT
    if isinstance(model, ModelConfig):
        return ", ".join(model.dropout_before)
    return ", ".join(list(layers(model))[1 : len(model.convs) + 1])


def dropout_scale(config: Config) -> str:
    keep = 1 - dropout_rate(config.model)
    if keep == 1:
        return ABSENT
    in_test = isinstance(config.model, ModelConfig) and config.model.dropout_scale == "test"
    return f"x {number(keep)} in the test" if in_test else f"x {number(1 / keep)} in training"


def initial_std(config: Config) -> str:
    model = config.model
    over = model.std if isinstance(model, TutorialConfig) else None
    return by_layer({n: number(layer.std if over is None else over) for n, layer in layers(model).items()})


def initial_bias(config: Config) -> str:
    model = config.model
    if isinstance(model, TutorialConfig) and model.std is not None:
        return f"N(0, {number(model.std)}^2)"
    drawn = {name: (number(layer.bias), number(layer.bias_std)) for name, layer in layers(model).items()}
    return by_layer({name: bias if std == "0" else f"N({bias}, {std}^2)" for name, (bias, std) in drawn.items()})


def batch(config: Config) -> str:
    return str(config.optim.batch)


def rate(config: Config) -> str:
    return number(config.optim.rate)


def layer_rates(config: Config) -> str:
    return "<br>".join(f"{layer}: x {number(factor)}" for layer, factor in config.optim.layer_rates) or "none"


def bias_rate(config: Config) -> str:
    factor = config.optim.bias_rate
    return "as the weights" if factor == 1 else f"x {number(factor)}"


def rule(config: Config) -> str:
    return "Adam" if config.optim.rule == "adam" else f"momentum {number(config.optim.momentum)}"


def decays(config: Config) -> dict[str, float]:
    own = dict(config.optim.layer_decays)
    return {name: own.get(name, config.optim.decay) for name in layers(config.model)}


def decay(config: Config) -> str:
    found = decays(config)
    return by_layer({name: number(value) for name, value in found.items()}) if any(found.values()) else "none"


def bias_decay(config: Config) -> str:
    if not any(decays(config).values()):
        return ABSENT
    return "as the weights" if config.optim.decay_biases else "none"


def fall(schedule: Schedule) -> str:
    factor = number(schedule.factor)
    if schedule.kind == "steps":
        return f"1/{factor} at epochs {', '.join(map(number, schedule.epochs))}"
    if schedule.kind == "staircase":
        return f"{schedule.stairs} equal stairs, the last 1/{factor}"
    if schedule.kind == "plateau":
        return f"1/{factor}, {schedule.drops} times, after {schedule.patience} epochs without a lower validation error"
    return "constant"


def schedule(config: Config) -> str:
    return fall(config.optim.schedule)


def bias_schedule(config: Config) -> str:
    own = config.optim.bias_schedule
    return fall(own) if own else "as the weights"


def length(config: Config) -> str:
    return f"{number(config.optim.epochs)} epochs"


def frozen(config: Config) -> str:
    epoch = config.optim.freeze_conv1
    return "never" if epoch is None else f"from epoch {number(epoch)}"


def mean(config: Config) -> str:
    names = {"pixel": "each pixel's own", "centre": "the central crop's, whatever the crop", "none": "none"}
    return names[config.data.mean]


def scale(config: Config) -> str:
    return f"0 to {number(255 * config.data.scale)}"


def crops(config: Config) -> str:
    data = config.data
    room = of_family(STORED, config.preset) + 2 * data.pad - config.model.image_size
    where = "the whole picture" if room == 0 else f"{room + 1}x{room + 1}" if data.crop else "the middle"
    return f"{where}, {data.pad} zeros around" if data.pad else where


def crop_run(config: Config) -> str:
    data = config.data
    if not data.crop and not data.flip:
        return ABSENT
    return "each picture its own" if data.crop_run == 1 else f"shared by {data.crop_run} in a row"


def flips(config: Config) -> str:
    return "half of the pictures" if config.data.flip else "none"


def colour_noise(config: Config) -> str:
    names = {
        "none": "none",
        "eigenvalue": "0.1 x eigenvalue, for pixels from 0 to 1",
        "stdev": "0.1 x standard deviation, picture / 1.1",
    }
    return names[config.data.colour_noise]


def noise_until(config: Config) -> str:
    if config.data.colour_noise == "none":
        return ABSENT
    epoch = config.data.colour_noise_until
    return "the end" if epoch is None else f"epoch {number(epoch)}"


def picture_order(config: Config) -> str:
    return "new every epoch" if config.data.reshuffle else "always the same"


def parameters(config: Config) -> str:
    return f"{sum(row.parameters for row in describe(config.model)):,}"


def multiply_adds(config: Config) -> str:
    return f"{sum(row.multiply_adds for row in describe(config.model)):,}"


# ------------------------------------------------------------------------------------------------------- the sources

FAMILY = {
    "half": "cuda_convnet",
    "six_conv": "cuda_convnet",
    "caffenet": "caffe",
    "cifar_13pct": "cifar",
    "cifar_11pct": "cifar_13pct",
}
"""whose sources a preset shares, where a row does not name its own"""

FILES = {
    "cuda_convnet": "145",
    "half": "145-half",
    "six_conv": "146",
    "caffe": "caffe",
    "caffenet": "caffenet",
    "cifar": "19pct",
    "cifar_13pct": "13pct",
    "cifar_11pct": "11pct",
}
"""what * stands for in a preset's sources"""

STORED = {
    "fashion": 28,
    "paper": 256,
    "cuda_convnet": 256,
    "caffe": 256,
    "one_weird_trick": 256,
    "tutorial": 28,
    "cifar": 32,
}
"""height and width of a picture of the data set, made square; the one thing here that is not in a Config"""


def of_family(table: dict[str, Any], preset: str) -> Any:
    """The preset's own entry, or that of the preset it follows. Raises KeyError where there is none."""
    while preset not in table:
        preset = FAMILY[preset]
    return table[preset]


class Row(NamedTuple):
    choice: str
    value: Callable[[Config], str]
    sources: dict[str, str] | str
    """preset -> its tags, each explained by KEY or PAPER; or one source for every preset"""

    def tags(self, preset: str) -> list[str]:
        """Raises KeyError where the preset's cell has no source."""
        try:
            tags = self.sources if isinstance(self.sources, str) else of_family(self.sources, preset)
            return [tag.replace("*", FILES[preset]) if "*" in tag else tag for tag in tags.split(", ")]
        except KeyError:
            raise KeyError(f"the cell {self.choice!r} of {preset} has no source") from None

    def cell(self, config: Config) -> str:
        value = self.value(config)
        return value if value == ABSENT else " ".join([value, *(f"[{tag}]" for tag in self.tags(config.preset))])


NETWORK = {
    "fashion": "P 3.5",
    "paper": "P 3.5",
    "cuda_convnet": "*.cfg",
    "caffe": "*.prototxt",
    "one_weird_trick": "torchvision",
    "tutorial": "TF/alexnet.py",
    "cifar": "*.cfg",
}
RECIPE = {
    "fashion": "ours",
    "paper": "P 5",
    "cuda_convnet": "170.params",
    "caffe": "*.solver",
    "one_weird_trick": "classification/README.md",
    "tutorial": "TF/alexnet.py",
    "cifar": "*.params",
}
# A layer's own rates are in Caffe's description of the network.
RATES = RECIPE | {"caffe": "*.prototxt"}
VIEWS = {
    "fashion": "P 4.1",
    "paper": "P 4.1",
    "cuda_convnet": "convdata_jpeg.py",
    "caffe": "data_transformer.cpp",
    "one_weird_trick": "ours",
    "tutorial": "TF/alexnet.py",
    "cifar": "cc1/convdata.py",
    "cifar_13pct": "cc1/convdata.py, memory",
    "cifar_11pct": "cc1/convdata.py, 11pct.params",
}
PIXELS = VIEWS | {
    "fashion": "P 2",
    "paper": "P 2",
    "one_weird_trick": "ours",
    "tutorial": "TF/input_data.py",
}


def every(tags: str) -> dict[str, str]:
    """The same source wherever the choice follows section 3 or 4 of the paper."""
    return NETWORK | {"fashion": tags, "paper": tags}


ROWS = (
    Row(
        "picture",
        picture,
        VIEWS | NETWORK | {"fashion": "ours", "cuda_convnet": "P 4.1", "cifar": "cc1/convdata.py"},
    ),
    Row(
        "zeros around it, for conv1",
        zeros,
        NETWORK | {"fashion": "ours", "paper": "layer.py, filter_acts.cu", "cuda_convnet": "*.cfg, layer.py"},
    ),
    Row("conv1's maps", conv1_maps, "counted"),
    Row(
        "how a picture becomes square",
        square,
        {
            "fashion": "ours",
            "paper": "P 2",
            "cuda_convnet": "P 2",
            "caffe": "imagenet/readme.md",
            "one_weird_trick": "ours",
            "tutorial": "ours",
            "cifar": "ours",
        },
    ),
    Row("columns", columns, NETWORK | {"one_weird_trick": "torchvision, OWT"}),
    Row("layers where they meet", meeting, NETWORK),
    Row("kernels", kernels, NETWORK | {"fashion": "ours"}),
    Row("their sizes/strides", kernel_sizes, NETWORK | {"fashion": "ours"}),
    Row("units", units, NETWORK | {"fashion": "ours"}),
    Row("order behind conv1", behind("conv1"), NETWORK),
    Row("order behind conv2", behind("conv2"), NETWORK),
    Row("order behind the last pooled convolution", behind_last, NETWORK),
    Row(
        "LRN: k",
        lrn("k"),
        every("P 3.3") | {"cuda_convnet": "*.params", "caffe": "caffe.proto", "cifar": "conv_util.cu"},
    ),
    Row("LRN: n", lrn("n"), every("P 3.3") | {"tutorial": "TF/alexnet.py, tf.nn.lrn"}),
    Row(
        "LRN: alpha, as it multiplies the sum of squares",
        lrn("alpha"),
        every("P 3.3")
        | {
            "cuda_convnet": "*.params, layer.py",
            "caffe": "*.prototxt, lrn_layer.cpp",
            "tutorial": "TF/alexnet.py, tf.nn.lrn",
            "cifar": "*.params, cc1/layer.py",
        },
    ),
    Row("LRN: beta", lrn("beta"), every("P 3.3") | {"cuda_convnet": "*.params", "cifar": "*.params"}),
    Row(
        "LRN at the columns' border",
        lrn_border,
        every("145.cfg") | {"cuda_convnet": "*.cfg, conv_util.cu", "caffe": "lrn_layer.cpp"},
    ),
    Row(
        "same-map norm",
        map_norm,
        every("P 3.3") | {"cuda_convnet": "*.cfg, *.params, layer.py, conv_util.cu"},
    ),
    Row("pooling", pooling, every("P 3.4")),
    Row(
        "its last window",
        last_window,
        every("layer.py") | {"cuda_convnet": "layer.py", "caffe": "pooling_layer.cpp", "cifar": "cc1/layer.py"},
    ),
    Row("activation", activation, every("P 3.1")),
    Row("dropout", dropout, every("P 4.2") | {"cifar": "P 3.1", "cifar_13pct": "*.cfg"}),
    Row("dropout in front of", dropped, every("P 4.2")),
    Row(
        "dropout: units are scaled",
        dropout_scale,
        every("P 4.2")
        | {
            "cuda_convnet": "layer.cu",
            "caffe": "dropout_layer.cpp",
            "one_weird_trick": "torchvision, nn.Dropout",
            "tutorial": "TF/alexnet.py, tf.nn.dropout",
        },
    ),
    Row(
        "initial weights: std",
        initial_std,
        NETWORK | {"fashion": "ours", "paper": "P 5", "one_weird_trick": "nn.Conv2d", "tutorial": "ours"},
    ),
    Row(
        "initial biases",
        initial_bias,
        NETWORK
        | {
            "fashion": "ours",
            "paper": "P 5",
            "cuda_convnet": "*.cfg, layer.py",
            "one_weird_trick": "nn.Conv2d",
            "tutorial": "ours",
            "cifar": "cc1/layer.py",
        },
    ),
    Row(
        "batch",
        batch,
        RATES | {"cuda_convnet": "convnet.py", "cifar": "cc1/convnet.py"},
    ),
    Row("rate", rate, RECIPE),
    Row("layers with a rate of their own", layer_rates, RATES),
    Row("rate of the biases", bias_rate, RATES),
    Row("rule", rule, RECIPE | {"fashion": "P 5", "cuda_convnet": "170.params, weights.cu"}),
    Row(
        "decay of the weights",
        decay,
        RECIPE | {"fashion": "P 5", "cifar": "P 3.1", "cifar_13pct": "*.params"},
    ),
    Row(
        "decay of the biases",
        bias_decay,
        RATES | {"cuda_convnet": "layer.cu", "cifar": "cc1/layer.cu"},
    ),
    Row(
        "schedule",
        schedule,
        RECIPE | {"paper": "P 5, ours", "cifar": "ours", "cifar_13pct": "11pct.params"},
    ),
    Row(
        "schedule of the biases",
        bias_schedule,
        RECIPE | {"cifar": "ours", "cifar_13pct": "11pct.params"},
    ),
    Row(
        "length",
        length,
        RECIPE | {"cuda_convnet": "P 5", "cifar": "ours", "cifar_13pct": "11pct.params"},
    ),
    Row("conv1 is frozen", frozen, RECIPE),
    Row("mean that is subtracted", mean, PIXELS),
    Row("pixels, before that", scale, PIXELS | {"caffe": "*.prototxt"}),
    Row("crop positions", crops, VIEWS | {"fashion": "ours", "paper": "convdata_jpeg.py"}),
    Row("crop and flip", crop_run, VIEWS),
    Row("flipped", flips, VIEWS | {"caffe": "*.prototxt"}),
    Row(
        "colour noise",
        colour_noise,
        VIEWS | {"fashion": "ours", "caffe": "*.readme"},
    ),
    Row("colour noise until", noise_until, VIEWS | {"cuda_convnet": "170.params"}),
    Row(
        "order of the pictures",
        picture_order,
        {
            "fashion": "ours",
            "paper": "ours",
            "cuda_convnet": "cc1/data.py",
            "caffe": "create_imagenet.sh",
            "one_weird_trick": "ours",
            "tutorial": "TF/input_data.py",
            "cifar": "cc1/data.py",
        },
    ),
    Row("parameters", parameters, "counted"),
    Row("multiply-adds, one picture forward", multiply_adds, "counted"),
)

PAPER = "https://papers.nips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html"
"""what P and a section stand for"""


class Repository(NamedTuple):
    name: str
    version: str
    what: str
    files: dict[str, str]
    """tag -> path"""

    def url(self, tag: str) -> str:
        return f"https://github.com/{self.name}/blob/{self.version}/{self.files[tag]}"


REPOSITORIES = (
    Repository(
        "computerhistory/AlexNet-Source-Code",
        "2f8b81f76470bf873c865754ad8f4a5e0dbbeb7b",
        "the code of 2012",
        {
            "145.cfg": "layers/layers-145.cfg",
            "145.params": "layers/layer-params-145.cfg",
            "145-half.cfg": "layers/layers-145-half.cfg",
            "145-half.params": "layers/layer-params-145-half.cfg",
            "146.cfg": "layers/layers-146-2012-2011.cfg",
            "146.params": "layers/layer-params-146-2012-2011.cfg",
            "170.params": "layers/layer-params-170.cfg",
            "convnet.py": "convnet.py",
            "convdata_jpeg.py": "convdata_jpeg.py",
            "layer.py": "layer.py",
            "layer.cu": "src/layer.cu",
            "weights.cu": "src/weights.cu",
        },
    ),
    Repository(
        "dnouri/cuda-convnet",
        "e4ac0c1f374a15cfe3944bd6d732c3822cc2b96b",
        "a copy of cuda-convnet, with the CUDA kernels that the code of 2012 was released without",
        {
            "19pct.cfg": "example-layers/layers-19pct.cfg",
            "19pct.params": "example-layers/layer-params-19pct.cfg",
            "13pct.cfg": "example-layers/layers-conv-local-13pct.cfg",
            "13pct.params": "example-layers/layer-params-conv-local-13pct.cfg",
            "11pct.cfg": "example-layers/layers-conv-local-11pct.cfg",
            "11pct.params": "example-layers/layer-params-conv-local-11pct.cfg",
            "cc1/convnet.py": "convnet.py",
            "cc1/convdata.py": "convdata.py",
            "cc1/data.py": "data.py",
            "cc1/layer.py": "layer.py",
            "cc1/layer.cu": "src/layer.cu",
            "conv_util.cu": "src/cudaconv2/conv_util.cu",
            "filter_acts.cu": "src/cudaconv2/filter_acts.cu",
        },
    ),
    Repository(
        "BVLC/caffe",
        "9b891540183ddc834a02b2bd81b31afae71b2153",
        "Caffe",
        {
            "caffe.prototxt": "models/bvlc_alexnet/train_val.prototxt",
            "caffe.solver": "models/bvlc_alexnet/solver.prototxt",
            "caffe.readme": "models/bvlc_alexnet/readme.md",
            "caffenet.prototxt": "models/bvlc_reference_caffenet/train_val.prototxt",
            "caffenet.solver": "models/bvlc_reference_caffenet/solver.prototxt",
            "caffenet.readme": "models/bvlc_reference_caffenet/readme.md",
            "caffe.proto": "src/caffe/proto/caffe.proto",
            "data_transformer.cpp": "src/caffe/data_transformer.cpp",
            "dropout_layer.cpp": "src/caffe/layers/dropout_layer.cpp",
            "lrn_layer.cpp": "src/caffe/layers/lrn_layer.cpp",
            "pooling_layer.cpp": "src/caffe/layers/pooling_layer.cpp",
            "create_imagenet.sh": "examples/imagenet/create_imagenet.sh",
            "imagenet/readme.md": "examples/imagenet/readme.md",
        },
    ),
    Repository(
        "pytorch/vision",
        "v0.29.1",
        "torchvision",
        {
            "torchvision": "torchvision/models/alexnet.py",
            "classification/README.md": "references/classification/README.md",
        },
    ),
    Repository(
        "aymericdamien/TensorFlow-Examples",
        "190bb8d8cd3dc1d2a7cc228c9fbbddd0b3aa0665",
        "the TensorFlow tutorials, in their first version",
        {"TF/alexnet.py": "alexnet.py", "TF/input_data.py": "input_data.py"},
    ),
)
DOCUMENTS = {
    "OWT": ("Krizhevsky, One weird trick for parallelizing convolutional neural networks", "arxiv.org/abs/1404.5997"),
    "nn.Conv2d": ("PyTorch's documentation", "docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html"),
    "nn.Dropout": ("PyTorch's documentation", "docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html"),
    "tf.nn.dropout": ("TensorFlow's documentation", "www.tensorflow.org/api_docs/python/tf/nn/dropout"),
    "tf.nn.lrn": ("the same", "www.tensorflow.org/api_docs/python/tf/nn/local_response_normalization"),
}
WORDS = {
    "counted": "from the shapes of the layers; tests/test_presets.py compares the counts with the literature's",
    "memory": "the file leaves it open, and what was done is from memory of cuda-convnet's documentation",
    "ours": "this project's own choice",
}
LINKS = {tag: repository.url(tag) for repository in REPOSITORIES for tag in repository.files} | {
    tag: f"https://{address}" for tag, (_, address) in DOCUMENTS.items()
}
KEY = {"P", *LINKS, *WORDS}
"""what the tags of the cells may be; P is followed by a section"""

LEFT = """\
Of the network:

- fc8 is cut on its inputs and its parts are summed; in 2012 column 1 sent its fc7 to GPU 0, which held all of fc8. The
  numbers are the same.
- `paper`: in the printed formula of LRN, N is "the total number of kernels in the layer", so that a window could reach
  into the other column. In 2012 it could not, and in `paper` it does not; `model.lrn_across_columns` goes by the
  letter.
- The paper counts 253,440 units in conv1; 55 x 55 x 96 is 290,400.
- `six_conv`: net 146 was pre-trained on 21,843 classes, through two linear layers of 1024 units behind fc7
  (layers-146-2011.cfg). This bottleneck is left out.
- `one_weird_trick` is torchvision's network. In cuda-convnet2's own LRN stands behind conv1 and conv2, conv1 has three
  zeros below and right, units are dropped in front of fc7 and fc8 and scaled in the test, and fc8's biases start at -7
  (akrizhevsky/cuda-convnet2, layers/layers-imagenet-1gpu.cfg). That the article trained logistic outputs, not a
  softmax, is from memory.
- The older nets 131, 135, 137 and 141, which were averaged with 145 and 146 in the submissions of 2012, are in no
  preset.

Of the recipe:

- `cuda_convnet`: net 145 itself was trained by hand: a tenth of the rate from epochs 25, 51 and 79 on, in conv1 already
  from 67 and nothing from 72; colour noise until 67; the biases' rate 0.02 all along; stopped at 91
  (layer-params-145.cfg). The preset has the schedule of its repetition 170. How long that was to last is not written
  down; run 169, with which it shared the first 23 epochs, was laid out for 95 (layer-params-169.cfg).
- `half` and `six_conv` have the recipe of `cuda_convnet`. Net 145-half was trained by hand on ILSVRC-2010: a tenth from
  epochs 20 and 48 on, in conv1 from 66 and nothing from 72; stopped at 96 (layer-params-145-half.cfg). Net 146 was
  fine-tuned from a rate of 0.001 (conv1 0.0001, fc8 0.01 until epoch 9), a tenth from epochs 22 and 42 on, in conv1
  from 5 and nothing from 7; stopped at 54 (layer-params-146-2012-2011.cfg).
- `paper`: the plateau rule is ours; its authors judged by eye.
- `paper`: printed literally, the eigenvalue noise would be a thousand grey levels for pixels from 0 to 255; the preset
  reads the formula for pixels from 0 to 1.
- The paper's factor of 2048 counts 32 x 32 positions of a crop; from 256 to 224 there are 33 x 33.
- The 2012 code reused a colour noise when its generator thread was late; here it is always drawn anew.
- A batch may reach over the border of an epoch, so that every batch has the same size.
- `caffe` and `caffenet`: the weights that were published are those of steps 360,000 and 310,000; a run here goes on to
  450,000.
- `one_weird_trick`: torchvision's crops of random size and shape are not reproduced, its initial weights are uniform
  where ours are normal with the same spread, and it divides each colour by its own standard deviation, ours all three
  by one.
- `tutorial`: its initial weights and biases were all N(0, 1), as `--model.std 1` draws them. TensorFlow's Adam adds its
  epsilon to the root of the second moment before the bias is corrected, Optax's behind that. The tutorial took 3,124
  steps and tested on 256 pictures; here a run takes 3,125 and tests on all.
- `cifar`: the paper prints neither the network of Figure 1 nor its rates, which were chosen for each activation anew.
- `cifar_13pct` and `cifar_11pct`: the first 350 epochs were on four fifths of the training pictures; here all are on
  all. The schedule of the first is that of the second, as its own file names only a page of code.google.com. Crops of
  24x24 are the default of cuda-convnet's provider of crops; that the first was trained with it is from memory.
"""


# ----------------------------------------------------------------------------------------------------------- the page


HEAD = f"""\
# Every disputed choice, and where it comes from

Made by `python scripts/fidelity.py` from the presets; do not edit. A cell says what a preset does, and in brackets
where that stands; [the list below](#sources) says what the brackets mean. `{ABSENT}` is a choice that a network does
not have.
"""
TAIL = """
A kernel of 11/4 is 11x11 at a stride of 4. The rate of the biases is in units of the weights', what a schedule comes
down to in units of the first rate. All of this is training: a test is on the central crop or on the ten of section 4.1.

## Sources
"""


def page(presets: dict[str, Config] = PRESETS) -> str:
    """The whole of docs/fidelity.md. Raises KeyError where a cell has no source."""
    # The default is this project's own, and comes last.
    shown = sorted(presets, key=lambda name: name == "fashion")
    table = [
        "| choice | " + " | ".join(f"`{name}`" for name in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
        *(f"| {row.choice} | " + " | ".join(row.cell(presets[name]) for name in shown) + " |" for row in ROWS),
    ]
    links = [f"[{tag}]: {link(tag)}" for tag in tags_used(presets) if tag not in WORDS]
    return "\n".join([HEAD, *table, TAIL, *explanations(), "\n## What no preset does\n", LEFT, *links, ""])


def tags_used(presets: dict[str, Config] = PRESETS) -> list[str]:
    """Every tag of a cell, each once."""
    filled = [(row, config) for row in ROWS for config in presets.values() if row.value(config) != ABSENT]
    return sorted({tag for row, config in filled for tag in row.tags(config.preset)}, key=natural)


def natural(tag: str) -> list[tuple[bool, float, str]]:
    """Sorts P 4.1 behind P 3.5, and 145 behind 19."""
    return [(part.isdigit(), float(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", tag)]


def link(tag: str) -> str:
    return PAPER if tag.startswith("P ") else LINKS[tag]


def explanations() -> list[str]:
    lines = [
        f"- P and a section: [the paper]({PAPER}), Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep "
        "Convolutional Neural Networks, NIPS 2012"
    ]
    for repository in REPOSITORIES:
        lines.append(f"- {repository.what}: {repository.name}, {repository.version[:7]}")
        lines += [f"  - [{tag}] {path}" for tag, path in repository.files.items()]
    lines += [f"- [{tag}] {what}" for tag, (what, _) in DOCUMENTS.items()]
    return lines + [f"- [{word}] {what}" for word, what in WORDS.items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
