"""Where the time of a compiled step goes, as JAX's profiler sees it: by layer and by operation."""

import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData

UNNAMED = "kernel gradients and copies, which XLA does not name"
LAYER = re.compile(r"(?:conv|norm|pool|fc|local)\d|out(?=/)")


class Times(NamedTuple):
    """Nanoseconds over all steps."""

    layers: Counter[str]
    operations: Counter[str]
    """by their names in the compiled program"""


def layer_times(program: str, step: Callable[[], object], steps: int) -> Times:
    """Profiles `steps` calls of `step`, which runs the compiled `program` and waits for it."""
    layers = scopes(program)
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(steps):
                step()
        trace = ProfileData.from_file(str(next(Path(directory).rglob("*.xplane.pb"))))
    times = Times(Counter(), Counter())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from the bindings of ProfileData
        for event in (event for plane in trace.planes for line in plane.lines for event in line.events):
            name = str(dict(event.stats).get("hlo_op", event.name))
            if name in layers:
                times.layers[layers[name]] += int(event.duration_ns)
                times.operations[name] += int(event.duration_ns)
    return times


def scopes(program: str) -> dict[str, str]:
    """The layer of each operation in the compiled program, by the operation's name."""
    found = {}
    for line in program.splitlines():
        named = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line)
        if named:
            source = re.search(r'op_name="([^"]*)"', line)
            layers = LAYER.findall(source[1]) if source else []
            found[named[1]] = layers[-1] if layers else "update and other operations" if source else UNNAMED
    return found
