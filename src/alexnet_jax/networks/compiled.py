"""The collectives of a compiled program, read from its text (HLO), and whether they are those of the plan."""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from alexnet_jax.networks.traffic import Collective, Direction

_COLLECTIVE = re.compile(
    r"= (?P<result>\(.*?\)|\S+) "
    r"(?P<kind>all-gather|reduce-scatter|all-reduce|collective-permute|all-to-all|ragged-all-to-all|collective-broadcast)"
    r"(?P<start>-start)?\("
)
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d\w*)?\[([\d,]*)\]")


def read(text: str, layers: Collection[str]) -> list[Collective]:
    """The collectives that the program executes, between at least two devices.

    A merged collective is taken apart, an asynchronous one is followed into the computation that it calls, and one in a
    loop counts as often as the loop runs. `layers`: the names to look for. Where the compiler has merged several, the
    layer's name is lost and empty.
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match["name"]
            bodies[name] = []
            entry = name if match["entry"] else entry
        elif name:
            bodies[name].append(line)

    known: dict[str, list[Collective]] = {}

    def executed(name: str) -> list[Collective]:
        if name not in known:
            known[name] = []
            for line in bodies.get(name, ()):
                called = _CALLED.findall(line)
                for branches in _BRANCHES.findall(line):
                    called += re.findall(r"[\w.-]+", branches)
                loop = _TRIPS.search(line)
                trips = int(loop[1]) if loop else 1
                inside = [one for other in called for one in executed(other)]
                known[name] += [*_collectives(line, layers), *inside * trips]
        return known[name]

    return executed(entry)


def _collectives(line: str, layers: Collection[str]) -> Iterator[Collective]:
    """The arrays of one line of the program, if it is a collective."""
    match = _COLLECTIVE.search(line)
    if not match or (devices := _group(line)) == 1:
        return
    kind, arrays = match["kind"], _ARRAY.findall(match["result"])
    # (operands, results, perhaps a context). An all-reduce may also start with the tuple of its results alone.
    if match["start"] and (kind != "all-reduce" or match["result"].startswith("((")):
        arrays = [array for array in arrays if array != ("u32", "")]
        arrays = arrays[len(arrays) // 2 :]
    name = re.search(r'op_name="([^"]*)"', line)
    path = name[1] if name else ""
    named = [part for part in re.split(r"[/:()]", path) if part in layers]
    layer = named[-1] if named and len(arrays) == 1 else ""
    direction: Direction = "backward" if "transpose(" in path else "forward"
    for dtype, dims in arrays:
        shape = tuple(int(size) for size in dims.split(",") if size)
        if kind == "all-gather":  # the result holds every device's part
            shape = (math.prod(shape) // devices,)
        yield Collective(layer, kind, direction, shape, devices, _bytes(dtype))  # type: ignore[arg-type]


def forms(text: str) -> dict[str, int]:
    """{kind: number} of the collective instructions in the program, merged ones as one, asynchronous ones apart."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = _COLLECTIVE.search(line)
        if match and _group(line) > 1:
            kind = f"asynchronous {match['kind']}" if match["start"] else match["kind"]
            found[kind] = found.get(kind, 0) + 1
    return found


def _bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1  # pred


def _group(line: str) -> int:
    """The number of devices in a group: `{{0,1},{2,3}}`, `[2,2]<=[4]` or `mesh['data'=2,'column'=2] {'column'}`."""
    if match := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", line):
        pairs = re.findall(r"(\d+),(\d+)", match[1])
        members = len({device for pair in pairs for device in pair})
        chains = members - len(pairs)  # each has one pair less than members; a ring has as many
        return max(1, members // max(1, chains))
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(.*?\))? \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(f"no groups of devices in: {line.strip()[:200]}")


class Pair(NamedTuple):
    """One array of the plan and of the program; None where only the other has it."""

    planned: Collective | None
    found: Collective | None

    @property
    def one(self) -> Collective:
        """The one that is there."""
        one = self.planned or self.found
        assert one is not None
        return one

    @property
    def differ(self) -> bool:
        return self.planned is None or self.found is None


def compare(planned: list[Collective], found: list[Collective], types: bool = True) -> list[Pair]:
    """Pairs what was planned with what was found: the same kind, number of elements, devices and bytes an element.

    A layer's name and the direction are compared, too, where the program still has the name. In the plan's order; what
    only the program has comes last. XLA for GPUs concatenates arrays and sums them as one, which is taken apart again.
    A compiler may add up metrics before it sends them, so none of them is missing. types: whether the bytes of an
    element must agree.
    """
    pairs: list[Pair | None] = [None] * len(planned)
    unexpected = []
    for one in sorted(found, key=lambda one: not one.layer):  # those with a name choose first
        fits = (at for at, plan in enumerate(planned) if pairs[at] is None and _same(plan, one, types))
        at = next(fits, None)
        if at is not None:
            pairs[at] = Pair(planned[at], one)
        elif parts := _concatenated(one, {at: plan for at, plan in enumerate(planned) if pairs[at] is None}):
            for at in parts:
                pairs[at] = Pair(planned[at], replace(planned[at], item=one.item))
        else:
            unexpected.append(Pair(None, one))
    paired = [pair or Pair(plan, None) for plan, pair in zip(planned, pairs, strict=True)]
    return [pair for pair in paired if pair.found or pair.one.direction != "metrics"] + unexpected


def _same(planned: Collective, found: Collective, types: bool) -> bool:
    return (
        (planned.kind, math.prod(planned.shape), planned.devices) == (found.kind, math.prod(found.shape), found.devices)
        and (planned.item == found.item or not types)
        and (not found.layer or (planned.layer, planned.direction) == (found.layer, found.direction))
    )


def _concatenated(one: Collective, planned: dict[int, Collective]) -> list[int]:
    """Which of the planned sums make up the elements of this one exactly, with some of the metrics; none if none do."""
    sums = {at: plan for at, plan in planned.items() if (plan.kind, plan.devices) == (one.kind, one.devices)}
    if one.kind != "all-reduce" or one.layer or len(one.shape) != 1:
        return []
    metrics = [at for at, plan in sums.items() if plan.direction == "metrics"]
    others = [(at, math.prod(plan.shape)) for at, plan in sums.items() if plan.direction != "metrics"]

    @cache
    def fill(start: int, elements: int) -> list[int] | None:
        """Of others[start:], those that have this many elements together."""
        if elements == 0:
            return []
        if start == len(others) or not 0 < elements <= sum(size for _, size in others[start:]):
            return None
        at, size = others[start]
        with_it = fill(start + 1, elements - size)
        return [at, *with_it] if with_it is not None else fill(start + 1, elements)

    for count in range(len(metrics) + 1):
        found = fill(0, one.shape[0] - count)
        if found or (found is not None and one.direction == "forward"):  # metrics alone are no gradients
            return found + metrics[:count]
    return []
