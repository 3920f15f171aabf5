"""What every preset sends between devices: writes tests/plans/PRESET.txt, with which a test compares the code.

python scripts/plans.py
"""

from pathlib import Path

from alexnet_jax.config import PRESETS, BadInput, Config
from alexnet_jax.networks import traffic

PLANS = Path(__file__).parent.parent / "tests" / "plans"
LAYOUTS = (traffic.Devices(1, 2), traffic.Devices(2, 2), traffic.Devices(2, 1, "hybrid"))


def text(config: Config) -> str:
    """The plans of one config on each layout, or why it cannot be laid out so."""
    parts = []
    for devices in LAYOUTS:
        try:
            parts.append(traffic.as_text(config, devices))
        except BadInput as error:
            parts.append(f"{devices.options}: {error}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PLANS.mkdir(exist_ok=True)
    for name, config in PRESETS.items():
        (PLANS / f"{name}.txt").write_text(text(config))
