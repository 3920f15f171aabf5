"""Configs compared field by field, and written as JSON."""

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from alexnet_jax.config.errors import BadInput
from alexnet_jax.config.run import Config


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"model.conv1.kernels": 96, ...}"""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        values |= flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return values


def diff(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which b differs from a: {"model.dropout": (0.5, 0.0)}. A field that one of them lacks is None."""
    in_a, in_b = flat(a), flat(b)
    pairs = {name: (in_a.get(name), in_b.get(name)) for name in in_a | in_b}
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The Config that `to_json` wrote. Raises BadInput if the text is not one."""
    try:
        return _build(Config, json.loads(text), "")
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise BadInput(f"not the JSON of a Config: {error}") from error


def read_config(path: Path) -> Config:
    """The Config in this file, which somebody may have edited. Raises BadInput."""
    try:
        return from_json(path.read_text())
    except ValueError as error:  # BadInput, or bytes that are no text
        raise BadInput(f"{path} cannot be read: {error}") from error


def _build(kind: Any, value: Any, name: str) -> Any:
    kind = _of_union(kind, value)
    if not dataclasses.is_dataclass(kind):
        if isinstance(kind, UnionType) and not isinstance(value, kind):
            raise BadInput(f"{name.rstrip('.')} cannot be {value!r}")
        return _tupled(value) if get_origin(kind) is tuple else value
    if not isinstance(value, dict):
        raise BadInput(f"{name.rstrip('.') or 'a Config'} cannot be {value!r}")
    make: Any = kind
    types = get_type_hints(kind)
    if "columns_meet" in value:  # older runs: at the layers of 2012, or nowhere
        value = dict(value)
        if not value.pop("columns_meet"):
            value["meet"] = []
    for key in value:
        if key not in types:
            raise BadInput(f"{name + key} is not a field of a Config")
    return make(**{key: _build(types[key], item, f"{name}{key}.") for key, item in value.items()})


def _of_union(kind: Any, value: Any) -> Any:
    """The member of a union, such as `Conv | None` or Model, that the value belongs to."""
    members = [member for member in get_args(kind) if dataclasses.is_dataclass(member)]
    if not isinstance(value, dict) or not members:
        return kind
    if "network" not in value:
        return members[0]
    named = [member for member in members if getattr(member, "network", None) == value["network"]]
    if not named:
        raise BadInput(f"there is no network {value['network']!r}")
    return named[0]


def _tupled(value: Any) -> Any:
    """JSON's lists as tuples. Old files hold `layer_rates` as an object, with 1 for a layer without its own."""
    if isinstance(value, dict):
        return tuple((layer, rate) for layer, rate in value.items() if rate != 1)
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
