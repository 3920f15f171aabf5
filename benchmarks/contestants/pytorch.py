"""The same networks in PyTorch: groups=2, local_response_norm, eager or compiled. Needs only torch and NumPy.

This file is run by its path, in any Python. `python -I pytorch.py DIRECTORY SEED` trains on the images in DIRECTORY.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no worker processes that keep running after a turn

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from contestants.turns import Worker

Params = dict[str, Any]
"""{"conv1": (kernel [out, in, H, W], bias), .. "fc8": (kernel [out, in], bias)}"""


def parameters(arrays: dict[str, np.ndarray]) -> Params:
    """From "conv1/kernel" [H, W, in, out], "fc6/kernel" [in, out], ..; fc6's inputs are ordered [H, W, channel]."""
    params: Params = {}
    for name in [name.split("/")[0] for name in arrays if name.endswith("kernel")]:
        kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        if kernel.ndim == 4:
            kernel, maps = kernel.transpose(3, 2, 0, 1), len(bias)
        else:
            kernel = by_map(kernel, maps) if name in ("fc1", "fc6") else kernel.T
        params[name] = tuple(torch.tensor(np.ascontiguousarray(a), requires_grad=True) for a in (kernel, bias))
    return params


def by_map(kernel: np.ndarray, maps: int) -> np.ndarray:
    """[H * W * channel, out] -> [out, channel * H * W], the order in which PyTorch flattens."""
    side = round((len(kernel) / maps) ** 0.5)
    return kernel.reshape(side, side, maps, -1).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)


def network(model: Any, params: Params, x: Any, train: bool = False) -> Any:
    """images [B, C, H, W] -> logits [B, K]; `model` has the fields of a ModelConfig or a TutorialConfig."""
    tutorial = model.network == "tutorial"
    columns = 1 if tutorial else model.columns
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    lrn_columns = 1 if tutorial or model.lrn_across_columns else columns

    def lrn(x: Any, norm: Any) -> Any:
        def of(x: Any) -> Any:
            # PyTorch divides alpha by n.
            return F.local_response_norm(x, norm.n, norm.alpha * norm.n, norm.beta, norm.k)

        if channels_last:
            return torch.cat([of(column) for column in x.chunk(lrn_columns, 1)], 1)
        # Each column as an image of its own. This is faster than chunk and cat, but it would lose channels last.
        return of(x.unflatten(1, (lrn_columns, -1)).flatten(0, 1)).unflatten(0, (-1, lrn_columns)).flatten(1, 2)

    def map_norm(x: Any, norm: Any) -> Any:
        means = F.avg_pool2d(x * x, norm.n, stride=1, padding=norm.n // 2)
        return x / (means * (norm.alpha * norm.n**2) + norm.k).pow(norm.beta)

    for name in [name for name in params if name.startswith("conv")]:
        layer, (before, after) = getattr(model, name), getattr(model, name).padding
        if before != after:
            x = F.pad(x, (before, after, before, after))
        groups = columns if name in ("conv2", "conv4", "conv5") else 1
        x = F.conv2d(x, *params[name], layer.stride, before if before == after else 0, groups=groups)
        for follow in layer.then:
            if follow == "activation":
                x = F.relu(x)
            elif follow == "pool":
                ragged = tutorial or name.replace("conv", "pool") in model.ragged
                x = F.max_pool2d(x, model.pool.size, model.pool.stride, ceil_mode=ragged)
            elif follow == "norm" and model.norm:
                x = lrn(x, model.lrn)
            elif follow == "map_norm" and model.norm:
                x = map_norm(x, model.map_norm)
        if tutorial:
            x = F.dropout(x, model.dropout, train)
    x = x.flatten(1)
    names = ("fc1", "fc2", "out") if tutorial else ("fc6", "fc7", "fc8")
    for name in names:
        if not tutorial and name in model.dropout_before:
            x = F.dropout(x, model.dropout, train)
            if model.dropout_scale == "test":
                x = x * (1 - model.dropout)  # undoes the scaling up that PyTorch does in training
        x = F.linear(x, *params[name])
        x = x if name == names[-1] else F.relu(x)
    return x


def optimiser(task: Any, params: Params) -> Any:
    """One parameter group for each learning rate and weight decay."""
    groups: dict[Any, Any] = {}
    for layer, (kernel, bias) in params.items():
        for name, parameter in (f"{layer}/kernel", kernel), (f"{layer}/bias", bias):
            how = {"lr": task.rates[name], "weight_decay": task.decays[name]}
            groups.setdefault(tuple(how.values()), how | {"params": []})["params"].append(parameter)
    if task.rule == "adam":
        return torch.optim.Adam(list(groups.values()), fused=True)
    return torch.optim.SGD(list(groups.values()), momentum=task.momentum, fused=True)


def change_rates(rule: Any, factor: float) -> None:
    """Multiplies all learning rates of SGD. The paper's velocity contains the learning rate, PyTorch's does not."""
    for group in rule.param_groups:
        group["lr"] *= factor
        for parameter in group["params"]:
            rule.state[parameter]["momentum_buffer"] /= factor


def read_task(directory: str) -> Any:
    """task.json as attributes, except `rates` and `decays`, which are dicts by parameter name."""
    text = (Path(directory) / "task.json").read_text()
    task = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
    task.rates, task.decays = vars(task.rates), vars(task.decays)
    torch.set_flush_denormal(True)  # as XLA does; must come before PyTorch starts threads
    torch.set_num_threads(task.threads)
    torch.backends.cudnn.benchmark = True  # shapes do not change, and XLA also autotunes
    # By default cuDNN computes float32 in TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = task.precision == "tf32"
    return task


def role(directory: str, memory: str, mode: str) -> "Worker":
    """`memory`: NCHW or NHWC (channels last). `mode`: eager or compiled."""
    from contestants.turns import Worker

    task = read_task(directory)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = "gpu" if device.type == "cuda" else "cpu"
    memory_format = torch.channels_last if memory == "NHWC" else torch.contiguous_format
    batch = np.load(Path(directory) / "batch.npz")
    images = torch.from_numpy(batch["images"].transpose(0, 3, 1, 2)).to(device, memory_format=memory_format)
    labels = torch.from_numpy(batch["labels"]).long().to(device)

    def laid_out(parameter: Any) -> Any:
        form = memory_format if parameter.ndim == 4 else torch.contiguous_format
        return parameter.detach().to(device).contiguous(memory_format=form).requires_grad_()

    def fresh_params() -> Params:
        arrays = dict(np.load(Path(directory) / "params.npz"))
        return {name: tuple(map(laid_out, pair)) for name, pair in parameters(arrays).items()}

    def network_of(dropout: float) -> Any:
        model = SimpleNamespace(**vars(task.config.model) | {"dropout": dropout})

        def logits(params: Params, images: Any, train: bool) -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=task.precision == "bfloat16"):
                return network(model, params, images, train)

        torch.compiler.reset()  # otherwise a second dropout rate would be compiled as a variable
        return torch.compile(logits) if mode == "compiled" else logits

    def settle(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    if task.work == "infer":
        forward, params = network_of(task.config.model.dropout), fresh_params()

        @torch.inference_mode()
        def infer(_: Any) -> Any:
            logits = forward(params, images, False)
            settle(None)
            return logits

        def loss() -> list[float]:
            return [F.cross_entropy(infer(None).float(), labels).item()]

        return Worker(place, loss, lambda: None, infer, settle)

    def step_of(dropout: float) -> Any:
        forward = network_of(dropout)

        def step(state: Any) -> Any:
            """The state is (parameters, optimiser, loss)."""
            params, rule, _ = state
            rule.zero_grad(set_to_none=True)
            loss = F.cross_entropy(forward(params, images, True).float(), labels)
            loss.backward()
            rule.step()
            return params, rule, loss.detach()

        return step

    def fresh_state() -> Any:
        params = fresh_params()
        return params, optimiser(task, params), None

    def losses() -> list[float]:
        step, state, found = step_of(0.0), fresh_state(), []
        for _ in range(3):
            state = step(state)
            found.append(state[-1].item())
        return found

    return Worker(place, losses, fresh_state, step_of(task.config.model.dropout), settle)


def fit(directory: str, seed: str) -> None:
    """Trains as `train` does, and prints the same lines of JSON.

    DIRECTORY/pictures.npz holds "train" and "validation", uint8 [N, H, W, C], "train_labels" and "validation_labels",
    "mean" [H, W, C], and "fractions", the factor on the learning rates at each step. It runs eagerly, because a short
    run finishes sooner that way.
    """
    task = read_task(directory)
    model, size, pad = task.config.model, task.config.model.image_size, task.config.data.pad
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pictures = np.load(Path(directory) / "pictures.npz")
    torch.manual_seed(int(seed))

    def centred(name: str) -> Any:
        """[N, C, H + 2 pad, W + 2 pad], with the mean subtracted."""
        difference = torch.from_numpy(pictures[name].astype(np.float32) - pictures["mean"])
        return F.pad(difference.permute(0, 3, 1, 2), (pad,) * 4).to(device)

    def drawn(name: str, shape: tuple[int, ...]) -> Any:
        layer, kind = name.split("/")
        how = getattr(model, layer)
        mean, std = (0.0, how.std) if kind == "kernel" else (how.bias, how.bias_std)
        return np.random.default_rng([int(seed), len(arrays)]).normal(mean, std, shape).astype(np.float32)

    arrays: dict[str, np.ndarray] = {}
    for name, array in np.load(Path(directory) / "params.npz").items():
        arrays[name] = drawn(name, array.shape)
    params = {
        name: tuple(part.detach().to(device).requires_grad_() for part in pair)
        for name, pair in parameters(arrays).items()
    }
    rule = optimiser(task, params)

    train, validation = centred("train"), centred("validation")
    train_labels, validation_labels = (
        torch.from_numpy(pictures[f"{name}_labels"]).long().to(device) for name in ("train", "validation")
    )
    middle = (validation.shape[-1] - size) // 2
    validation = validation[:, :, middle : middle + size, middle : middle + size]
    examples, batch, room = len(train), task.config.optim.batch, train.shape[-1] - size
    epochs = range(1 + len(pictures["fractions"]) * batch // examples)
    order = torch.cat([torch.randperm(examples) for _ in epochs]).to(device)
    before = 1.0
    for step, fraction in enumerate(pictures["fractions"].tolist()):
        if fraction != before:
            change_rates(rule, fraction / before)
            before = fraction
        chosen = order[step * batch : (step + 1) * batch]
        top, left = torch.randint(room + 1, (2, len(chosen), 1), device=device) + torch.arange(size, device=device)
        left = torch.where(torch.rand(len(chosen), 1, device=device) < 0.5, left.flip(1), left)
        views = train[chosen[:, None, None], :, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
        rule.zero_grad(set_to_none=True)
        F.cross_entropy(network(model, params, views, train=True), train_labels[chosen]).backward()
        rule.step()
        if step == 0:
            print(json.dumps({"step": 1}), flush=True)
        if (step + 1) * batch // examples > step * batch // examples:
            with torch.inference_mode():
                guesses = torch.cat([network(model, params, part).argmax(1) for part in validation.split(batch)])
            error = (guesses != validation_labels).float().mean().item()
            print(json.dumps({"step": step + 1, "validation/top1_error": error}), flush=True)


if __name__ == "__main__":
    fit(*sys.argv[1:])
