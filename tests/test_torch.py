"""PyTorch as an independent judge of the forward pass, gradients and five SGD steps, at full size.

Without the extra torch these tests are skipped.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import alexnet_jax as alexnet
from alexnet_jax.config import ModelConfig, OptimConfig
from alexnet_jax.training.optimiser import Rates, moments, update

torch = pytest.importorskip("torch")
F = torch.nn.functional

LABELS = np.array([3, 141])
RATE = 1e-4  # with 1e-3 the loss, and rounding errors with it, explode within five steps
OPTIM = OptimConfig(rate=RATE, bias_rate=2.0, decay_biases=False)


def two_columns(p: dict[str, Any], x: Any) -> Any:
    """The paper's network: 224 pixels with three zeros, groups=2, LocalResponseNorm on each column."""

    def lrn(x: Any) -> Any:
        # LocalResponseNorm divides its alpha by the window's 5 maps.
        return torch.cat([F.local_response_norm(half, 5, alpha=5e-4, beta=0.75, k=2.0) for half in x.chunk(2, 1)], 1)

    def conv(name: str, x: Any, **how: Any) -> Any:
        return F.relu(F.conv2d(x, *p[name], **how))

    x = F.max_pool2d(lrn(conv("conv1", F.pad(x, (0, 3, 0, 3)), stride=4)), 3, 2)
    x = F.max_pool2d(lrn(conv("conv2", x, padding=2, groups=2)), 3, 2)
    x = conv("conv3", x, padding=1)
    x = conv("conv4", x, padding=1, groups=2)
    x = F.max_pool2d(conv("conv5", x, padding=1, groups=2), 3, 2).flatten(1)
    x = F.relu(F.linear(x, *p["fc6"]))
    x = F.relu(F.linear(x, *p["fc7"]))
    return F.linear(x, *p["fc8"])


def one_weird_trick(p: dict[str, Any], x: Any) -> Any:
    """torchvision's alexnet."""

    def conv(name: str, x: Any, **how: Any) -> Any:
        return F.relu(F.conv2d(x, *p[name], **how))

    x = F.max_pool2d(conv("conv1", x, stride=4, padding=2), 3, 2)
    x = F.max_pool2d(conv("conv2", x, padding=2), 3, 2)
    x = conv("conv3", x, padding=1)
    x = conv("conv4", x, padding=1)
    x = F.adaptive_avg_pool2d(F.max_pool2d(conv("conv5", x, padding=1), 3, 2), 6).flatten(1)
    x = F.relu(F.linear(x, *p["fc6"]))
    x = F.relu(F.linear(x, *p["fc7"]))
    return F.linear(x, *p["fc8"])


NETWORKS: dict[str, Callable[..., Any]] = {"paper": two_columns, "one_weird_trick": one_weird_trick}


def with_batch_norm(p: dict[str, Any], running: dict[str, Any], x: Any) -> Any:
    """Caffe's network with batch norm before each activation (models/alexnet_bn)."""

    def conv(number: int, x: Any, **how: Any) -> Any:
        x = F.conv2d(x, *p[f"conv{number}"], **how)
        statistics = running[f"norm{number}"]
        return F.relu(F.batch_norm(x, *statistics, *p[f"norm{number}"], training=True, momentum=0.1, eps=1e-4))

    x = F.max_pool2d(conv(1, x, stride=4), 3, 2)
    x = F.max_pool2d(conv(2, x, padding=2, groups=2), 3, 2)
    x = conv(3, x, padding=1)
    x = conv(4, x, padding=1, groups=2)
    x = F.max_pool2d(conv(5, x, padding=1, groups=2), 3, 2).flatten(1)
    x = F.relu(F.linear(x, *p["fc6"]))
    x = F.relu(F.linear(x, *p["fc7"]))
    return F.linear(x, *p["fc8"])


def model_of(name: str) -> ModelConfig:
    return replace(alexnet.preset(name).model, dropout=0.0)


def random_params(model: ModelConfig) -> dict[str, dict[str, np.ndarray]]:
    """Weights that keep the size of activations, so that every layer matters, and biases of both signs."""
    rng = np.random.default_rng(0)
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, layer in jax.eval_shape(partial(alexnet.init, model), jax.random.key(0)).items():
        kernel, bias = layer["kernel"].shape, layer["bias"].shape
        std = np.sqrt(2 / np.prod(kernel[:-1])) / (50 if name == "conv1" else 1)
        params[name] = {"kernel": rng.normal(0, std, kernel), "bias": rng.normal(0, 0.1, bias)}
    return params


def pictures_of(dtype: Any) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 50, (2, 224, 224, 3)).astype(dtype)


def channels_first(images: np.ndarray) -> Any:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def to_torch(params: Any) -> dict[str, tuple[Any, Any]]:
    """OIHW and [out, in], with fc6's inputs in the order channel, height, width. Shares no code with convert."""
    theirs = {}
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"])
        if kernel.ndim == 4:
            kernel = np.einsum("hwio->oihw", kernel)
        elif name == "fc6":
            kernel = np.einsum("hwio->oihw", kernel.reshape(6, 6, -1, kernel.shape[1])).reshape(kernel.shape[1], -1)
        else:
            kernel = kernel.T
        theirs[name] = tuple(
            torch.tensor(np.ascontiguousarray(array), requires_grad=True)
            for array in (kernel, np.asarray(layer["bias"]))
        )
    return theirs


def from_torch(arrays: dict[str, tuple[Any, Any]]) -> dict[str, dict[str, np.ndarray]]:
    ours = {}
    for name, (kernel, bias) in arrays.items():
        array = kernel.detach().numpy()
        if array.ndim == 4:
            array = np.einsum("oihw->hwio", array)
        elif name == "fc6":
            array = np.einsum("oihw->hwio", array.reshape(len(array), -1, 6, 6)).reshape(-1, len(array))
        else:
            array = array.T
        ours[name] = {"kernel": array, "bias": bias.detach().numpy()}
    return ours


def furthest(ours: Any, theirs: Any) -> float:
    """The largest relative L2 distance between two leaves."""
    pairs = zip(jax.tree.leaves(jax.device_get(ours)), jax.tree.leaves(theirs), strict=True)
    return float(np.max([np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in pairs]))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_forward_pass_agrees_in_float32(name: str) -> None:
    model, images = model_of(name), pictures_of(np.float32)
    params = jax.tree.map(lambda x: x.astype(np.float32), random_params(model))
    with torch.no_grad():
        expected = NETWORKS[name](to_torch(params), channels_first(images)).numpy()
    assert furthest(alexnet.forward(model)(params, images), expected) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_five_sgd_steps_agree_in_float64(name: str) -> None:
    """To 1e-9. In float32 a ReLU may differ where its input is 0 up to rounding, which moves a gradient by 1e-2."""
    model, images = model_of(name), pictures_of(np.float64)
    with jax.enable_x64(True):
        forward, params = alexnet.forward(model), jax.tree.map(jnp.asarray, random_params(model))

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, velocity: Any) -> Any:
            def loss(params: Any) -> Any:
                logits = forward(params, images, train=True)
                return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), logits

            (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            params, velocity, _ = update(OPTIM, params, velocity, gradients, Rates(RATE, 2 * RATE, 1.0))
            return logits, gradients, params, velocity

        theirs = to_torch(params)
        rule = torch.optim.SGD(
            [
                {"params": [kernel for kernel, _ in theirs.values()], "weight_decay": 0.0005},
                {"params": [bias for _, bias in theirs.values()], "lr": 2 * RATE},
            ],
            lr=RATE,
            momentum=0.9,
        )
        velocity = moments(OPTIM, params)
        for number in range(5):
            logits, gradients, params, velocity = step(params, velocity)
            rule.zero_grad()
            expected = NETWORKS[name](theirs, channels_first(images))
            F.cross_entropy(expected, torch.from_numpy(LABELS)).backward()
            assert furthest(logits, expected.detach().numpy()) < 1e-9, f"logits of step {number}"
            slopes = {layer: (kernel.grad, bias.grad) for layer, (kernel, bias) in theirs.items()}
            assert furthest(gradients, from_torch(slopes)) < 1e-9, f"gradients of step {number}"
            rule.step()
        moved, moved_there = (
            jax.tree.map(lambda x, y: np.asarray(x) - y, jax.device_get(end), random_params(model))
            for end in (params, from_torch(theirs))
        )
        assert furthest(moved, moved_there) < 1e-8, "the change of the parameters in five steps"


def test_batch_norm_its_gradients_and_its_running_averages_agree_in_float64() -> None:
    """Of the biases before batch norm the gradients are 0, and of its running averages they are what is subtracted."""
    model = model_of("large_batch")
    images = np.random.default_rng(1).normal(0, 50, (2, 227, 227, 3))
    rng, params = np.random.default_rng(2), random_params(replace(model, **dict(alexnet.preset("caffe").model.convs)))
    norms = {
        f"norm{number}": {"scale": rng.normal(1, 0.2, conv.kernels), "bias": rng.normal(0, 0.1, conv.kernels)}
        for number, conv in enumerate(model.convs.values(), 1)
    }
    running = {
        name: {
            "running_mean": rng.normal(0, 1, len(own["bias"])),
            "running_variance": rng.uniform(1, 2, len(own["bias"])),
        }
        for name, own in norms.items()
    }
    theirs = to_torch(params) | {
        name: tuple(torch.tensor(own[kind], requires_grad=True) for kind in ("scale", "bias"))
        for name, own in norms.items()
    }
    averages = {name: tuple(torch.tensor(array.copy()) for array in own.values()) for name, own in running.items()}
    expected = with_batch_norm(theirs, averages, channels_first(images))
    F.cross_entropy(expected, torch.from_numpy(LABELS)).backward()

    with jax.enable_x64(True):
        forward = alexnet.forward(model)
        ours = jax.tree.map(jnp.asarray, params | {name: own | running[name] for name, own in norms.items()})

        def loss(params: Any) -> Any:
            logits = forward(params, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), logits

        gradients, logits = jax.device_get(jax.grad(loss, has_aux=True)(ours))
    assert furthest(logits, expected.detach().numpy()) < 1e-9
    slopes = from_torch(
        {layer: (kernel.grad, bias.grad) for layer, (kernel, bias) in theirs.items() if layer in params}
    )
    for layer, own in slopes.items():
        assert furthest(gradients[layer]["kernel"], own["kernel"]) < 1e-9
        if layer.startswith("conv"):
            assert np.abs(gradients[layer]["bias"]).max() < 1e-9
        else:
            assert furthest(gradients[layer]["bias"], own["bias"]) < 1e-9
    for number, conv in enumerate(model.convs.values(), 1):
        layer = f"norm{number}"
        for kind, parameter in zip(("scale", "bias"), theirs[layer], strict=True):
            assert furthest(gradients[layer][kind], parameter.grad.numpy()) < 1e-9
        mean, variance = (average.numpy() for average in averages[layer])
        assert furthest(running[layer]["running_mean"] - gradients[layer]["running_mean"], mean) < 1e-9
        # PyTorch's running variance is that of a sample: n / (n - 1) times the mean square.
        count = 2 * model.sides()[f"conv{number}"] ** 2
        old = running[layer]["running_variance"]
        assert (
            furthest(0.9 * old + (0.1 * old - gradients[layer]["running_variance"]) * count / (count - 1), variance)
            < 1e-9
        )
        assert conv.kernels == len(mean)
