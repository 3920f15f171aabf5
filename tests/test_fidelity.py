"""docs/fidelity.md is what the presets say, cell by cell, each with its source."""

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from alexnet_jax.config import BadInput, Config, diff
from alexnet_jax.config.presets import PRESETS, preset

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "fidelity.py"))
page: Callable[..., str] = SCRIPT["page"]
ROWS = SCRIPT["ROWS"]
WORDS = SCRIPT["WORDS"]  # fidelity.toml


def test_the_page_is_that_of_the_presets() -> None:
    written = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert written == page(), "a preset has changed; run python scripts/fidelity.py"


def test_every_preset_is_a_column_and_every_choice_a_row() -> None:
    head, _, *rows = (line for line in page().splitlines() if line.startswith("|"))
    assert sorted(re.findall(r"`(\w+)`", head)) == sorted(PRESETS)
    assert [row.split(" | ")[0] for row in rows] == [f"| {row.choice}" for row in ROWS]
    assert {row.count(" | ") for row in (head, *rows)} == {len(PRESETS)}


def test_a_preset_that_changes_changes_the_page() -> None:
    config = preset("cuda_convnet")
    changed = replace(config, optim=replace(config.optim, freeze_conv1=72.0))
    before, now = page().splitlines(), page(PRESETS | {"cuda_convnet": changed}).splitlines()
    lines = [(a, b) for a, b in zip(before, now, strict=True) if a != b]
    assert len(lines) == 1
    assert "from epoch 74" in lines[0][0]
    assert "from epoch 72" in lines[0][1]


def with_field(config: Any, name: str, value: Any) -> Any:
    """The config with one field, such as model.conv1.kernels, replaced."""
    field, _, rest = name.partition(".")
    return replace(config, **{field: with_field(getattr(config, field), rest, value) if rest else value})


def column(config: Config) -> list[str]:
    """What the page says of a preset, without what is counted: counts would show many a change that no cell names."""
    return [row.value(config) for row in ROWS if row.sources != "counted"]


def shows(config: Config, name: str, value: Any) -> bool:
    try:
        return column(with_field(config, name, value)) != column(config)
    except BadInput:  # it does not fit together
        return False


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_in_which_a_preset_differs_is_on_the_page(name: str) -> None:
    """In the preset or in the one it is compared with: a schedule's stairs are not to be seen where it has none."""
    config = preset(name)
    first = next(other for other in PRESETS.values() if type(other.model) is type(config.model))
    for field in diff(first, config).keys() - {"preset"}:
        layer = ".".join(field.split(".")[:2])
        both = [attrgetter(layer)(either) for either in (first, config)]
        # A layer that one of them lacks is exchanged as a whole.
        if layer != field and None not in both:
            layer, both = field, [attrgetter(field)(either) for either in (first, config)]
        assert shows(first, layer, both[1]) or shows(config, layer, both[0]), field


def test_the_file_of_sources_names_presets_and_choices_and_nothing_else() -> None:
    assert WORDS["presets"].keys() == PRESETS.keys()
    assert WORDS["choices"].keys() == SCRIPT["VALUES"].keys()
    for table in (*WORDS["defaults"].values(), *WORDS["choices"].values()):
        assert table.keys() - {"row", "default", "everywhere"} <= PRESETS.keys()


def test_a_cell_without_a_source_is_an_error() -> None:
    new = replace(preset("paper"), preset="new")
    with pytest.raises(KeyError, match="of new has no source"):
        page(PRESETS | {"new": new})
    row = SCRIPT["Row"]("a new choice", lambda config: "something", {"paper": "P 5"})
    assert row.cell(preset("paper")) == "something [P 5]"
    with pytest.raises(KeyError, match="'a new choice' of caffe has no source"):
        row.cell(preset("caffe"))


def test_the_key_explains_every_tag_and_nothing_else() -> None:
    table = [line for line in page().splitlines() if line.startswith("|")]
    tags = {tag for line in table for tag in re.findall(r"\[([^]]+)\]", line)}
    assert {re.sub(r"^P [\d.]+$", "P", tag) for tag in tags} == SCRIPT["KEY"]
    key = page().split("## Sources")[1].split("## ")[0]
    for tag in SCRIPT["KEY"] - {"P"}:
        assert f"- [{tag}] " in key
    assert "- P and a section: " in key
    links = re.findall(r"^\[([^]]+)\]: https://", page(), re.MULTILINE)
    assert sorted(links) == sorted(tags - set(WORDS["words"]))
