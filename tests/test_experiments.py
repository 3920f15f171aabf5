"""Each experiment changes the fields that its first sentence names, and its network can be built."""

import re
import runpy
from pathlib import Path

import jax
import pytest

from alexnet_jax.config import diff
from alexnet_jax.config.presets import preset
from alexnet_jax.networks import functional

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_changes_what_it_says(path: Path) -> None:
    found = runpy.run_path(str(path))
    first_sentence, command = found["__doc__"].split("\n\n")[:2]
    named = re.findall(r"\b(?:model|optim|data)\.[\w.]*\w", first_sentence)
    config = found["CONFIG"]
    assert sorted(diff(preset(config.preset), config)) == sorted(named)
    assert command.strip().startswith(f"python -m alexnet_jax.train experiments/{path.name}")
    params = jax.eval_shape(lambda key: functional.init(config.model, key), jax.random.key(0))
    assert params["fc8"]["kernel"].shape[1] == 10


def test_there_are_at_least_nine_experiments() -> None:
    assert len(EXPERIMENTS) >= 9
