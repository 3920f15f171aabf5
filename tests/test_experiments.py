"""Each experiment changes the fields that its first sentence names, and its network can be built."""

import re
import runpy
from pathlib import Path

import jax
import pytest

from alexnet_jax.ablation.experiments import load
from alexnet_jax.config import diff
from alexnet_jax.config.presets import preset
from alexnet_jax.networks import functional

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
PAGE = ROOT / "docs" / "ablations.md"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_changes_what_it_says(path: Path) -> None:
    found = runpy.run_path(str(path))
    first_sentence, command = found["__doc__"].split("\n\n")[:2]
    named = re.findall(r"\b(?:model|optim|data)\.[\w.]*\w", first_sentence)
    config = found["CONFIG"]
    base = preset(config.preset)
    # A layer that the base does not have is named as a whole.
    changed = {re.sub(r"^(model\.conv6)\..*", r"\1", field) for field in diff(base, config)}
    assert sorted(changed) == sorted(named)
    init = f" --init {found['INIT'].format(seed=0)}" if "INIT" in found else ""
    assert command.strip() == f"python -m alexnet_jax.train experiments/{path.name}{init}"
    params = jax.eval_shape(lambda key: functional.init(config.model, key), jax.random.key(0))
    assert params["fc8"]["kernel"].shape[1] == base.model.classes


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_fits_the_network_of_full_size_too(path: Path) -> None:
    """An experiment of `fashion` must not be one of its sizes."""
    base = preset("cuda_convnet")
    config = load(path).config(base, seed=3)
    params = jax.eval_shape(lambda key: functional.init(config.model, key), jax.random.key(0))
    assert (config.seed, config.preset) == (3, "cuda_convnet")
    kernels = 48 if path.stem == "half" else 96
    assert params["conv1"]["kernel"].shape == (11, 11, 3, kernels)
    assert set(base.model.convs) - set(config.model.convs) == set(config.model.without) <= {path.stem[3:]}


@pytest.mark.parametrize("name", ["fashion", "cuda_convnet"])
def test_pooling_without_overlap_leaves_the_sizes_of_the_maps(name: str) -> None:
    base = preset(name)
    config = load(ROOT / "experiments" / "no_overlap.py").config(base, seed=0)
    assert (config.model.pool.size, config.model.sides()) == (2, base.model.sides())


def test_the_figures_of_an_experiment_are_those_of_its_claim() -> None:
    for path in EXPERIMENTS:
        found = load(path)
        for figures in filter(None, (found.paper, found.logs)):
            for points in figures:
                assert f"{abs(points):g}" in path.read_text().split('"""')[1], path


def test_a_docstring_ends_with_what_was_measured() -> None:
    with_measured = runpy.run_path(str(ROOT / "scripts" / "measured.py"))["with_measured"]
    for path in EXPERIMENTS:
        text = path.read_text()
        assert text == with_measured(text, path.stem), f"run python scripts/measured.py for {path.name}"


def test_every_experiment_is_on_its_page() -> None:
    rows = re.findall(r"(?m)^\| `experiments/(\w+)\.py` \|", PAGE.read_text())
    assert sorted(rows) == [path.stem for path in EXPERIMENTS]
