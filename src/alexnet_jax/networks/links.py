"""How long a step's messages take on a link, and what other layouts of the same network on as many devices would send.

A model, not a measurement: devices in a ring, one collective after another, nothing hidden behind the arithmetic.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from alexnet_jax.config import BadInput, Config
from alexnet_jax.networks import functional
from alexnet_jax.networks.traffic import Collective, Devices, plan


class Link(NamedTuple):
    """A link between neighbours."""

    gigabytes_per_second: float
    """in each direction"""
    microseconds: float
    """before the first byte of a message arrives"""

    def seconds(self, sent: list[Collective]) -> float:
        """Time for these collectives. Gradients and metrics between the same devices travel as one, as XLA has it."""
        merged = {one.devices: one for one in sent if one.direction in ("gradients", "metrics")}
        alone = [one for one in sent if one.direction in ("forward", "backward")]
        messages = sum(one.steps for one in (*alone, *merged.values()))
        return messages * self.microseconds * 1e-6 + sum(one.bytes for one in sent) / (self.gigabytes_per_second * 1e9)


# Rates as advertised; the latencies are round figures of ours.
LINKS = {
    "2012": Link(8.0, 10.0),  # PCI Express 2, 16 lanes
    "nvlink": Link(450.0, 3.0),  # NVLink 4 of an H100
    "ethernet100": Link(12.5, 20.0),
    "ethernet10": Link(1.25, 50.0),
}


def link(text: str) -> Link:
    """The link of that name, or of `GB/s,microseconds`. Raises BadInput."""
    if text in LINKS:
        return LINKS[text]
    try:
        rate, latency = map(float, text.split(","))
        if rate > 0 and latency >= 0:
            return Link(rate, latency)
    except ValueError:
        pass
    raise BadInput(f"--link {text} is not one of {', '.join(LINKS)}, nor GB/s,microseconds as in --link 12.5,20")


def arithmetic_seconds(config: Config, batch: int, devices: int, flops: float) -> float:
    """Time of a step's arithmetic on devices of `flops` operations a second, perfectly divided among them."""
    return 2 * functional.multiply_adds(config.model, train=True) * batch / devices / flops


class Alternative(NamedTuple):
    """A layout, and what it sends."""

    name: str
    devices: Devices
    sent: list[Collective]

    @property
    def bytes(self) -> int:
        """that leave a device in a step"""
        return sum(one.bytes for one in self.sent)


def layouts(config: Config, number: int) -> Iterator[tuple[str, Devices]]:
    """The ways to lay a network on this many devices, possible or not."""
    shared = [columns for columns in range(2, config.model.columns + 1) if config.model.columns % columns == 0]
    for columns in (count for count in shared if count == number):
        yield "columns", Devices(1, columns)
    yield "data", Devices(number, 1)
    mixed = [columns for columns in shared if columns < number and number % columns == 0]
    for columns in mixed:
        yield "columns with data", Devices(number // columns, columns)
    yield "hybrid", Devices(number, 1, "hybrid")
    for columns in mixed:
        yield "hybrid with columns", Devices(number // columns, columns, "hybrid")


def alternatives(config: Config, number: int, batch: int) -> list[Alternative]:
    """What each possible layout on this many devices sends for a global batch."""
    found = []
    for name, devices in layouts(config, number):
        try:
            found.append(Alternative(name, devices, plan(config, devices, batch)))
        except BadInput:  # it does not divide
            continue
    return found


def columns_pay_until(config: Config, number: int, seconds: Callable[[list[Collective]], float]) -> int | None:
    """The largest global batch with which columns take less time than data parallelism, 0 if they never do.

    None if the network has no columns for this many devices.
    """
    ours = [devices for name, devices in layouts(config, number) if name in ("columns", "columns with data")]
    if not ours:
        return None

    def pays(batches: int) -> bool:
        batch = batches * number
        return seconds(plan(config, ours[-1], batch)) < seconds(plan(config, Devices(number, 1), batch))

    low, high = 0, 1
    while pays(high) and high < 1 << 24:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pays(middle) else (low, middle)
    return low * number


def scaling(
    config: Config, each: int, seconds: Callable[[list[Collective]], float], most: int = 1024
) -> dict[str, dict[int, float]]:
    """{layout: {devices: seconds}} for 2, 4, 8 .. `most` devices with `each` images on every device."""
    found: dict[str, dict[int, float]] = {}
    number = 2
    while number <= most:
        for one in alternatives(config, number, each * number):
            found.setdefault(one.name, {})[number] = seconds(one.sent)
        number *= 2
    return found
