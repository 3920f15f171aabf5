"""Starting from weights that were trained before: pre-training and fine-tuning (section 6, note 1)."""

from typing import Any

import jax

Params = dict[str, dict[str, Any]]


def transfer(fresh: Params, trained: Params, logits: str, same_classes: bool) -> tuple[Params, dict[str, str]]:
    """`fresh` with the layers of `trained` that fit, and for every other layer why it stays new.

    A layer fits where all its shapes are the same; the layer `logits` only where it tells the same classes apart.
    What is taken lies where the fresh layer lay.
    """
    params, new = dict(fresh), {}
    for layer, own in fresh.items():
        if layer not in trained:
            new[layer] = "not among them"
        elif layer == logits and not same_classes:
            new[layer] = "it told other classes apart"
        elif shapes(trained[layer]) != shapes(own):
            there, here = (_times(params["kernel"].shape) for params in (trained[layer], own))
            new[layer] = f"its kernel is {there} there and {here} here"
        else:
            params[layer] = {name: jax.device_put(trained[layer][name], own[name].sharding) for name in own}
    return params, new


def shapes(layer: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in layer.items()}


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
