"""docs/fidelity.md agrees with the presets, choice by choice, and gives a source for each."""

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
TABLES = SCRIPT["TABLES"]
ROWS = [row for rows in TABLES.values() for row in rows]
WORDS = SCRIPT["WORDS"]  # fidelity.toml


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert written == page(), "a preset has changed; run python scripts/fidelity.py"


def test_the_page_gives_each_preset_one_value_per_choice() -> None:
    tables = re.findall(r"^## (.*)\n(?:\n.*)*?\n\| choice .*\n\|[-|]+\n((?:\|.*\n)+)", page(), re.MULTILINE)
    assert [heading for heading, _ in tables] == [subject["heading"] for subject in WORDS["subjects"].values()]
    found: dict[str, dict[str, str]] = {}
    for _, table in tables:
        for line in table.splitlines():
            choice, value, presets = line.removeprefix("| ").removesuffix(" |").split(" | ")
            if choice:
                assert choice not in found
                found[choice] = {}
            for name in re.findall(r"`(\w+)`", presets):
                assert name not in found[list(found)[-1]]
                found[list(found)[-1]][name] = value
    expected = {row.choice: {name: row.value(config) for name, config in PRESETS.items()} for row in ROWS}
    assert list(found) == list(expected)
    for choice, its in expected.items():
        assert found[choice] == {name: value for name, value in its.items() if value is not None}


def test_a_changed_preset_changes_the_page() -> None:
    config = preset("cuda_convnet")
    changed = replace(config, optim=replace(config.optim, freeze_conv1=72.0))
    before, now = page().splitlines(), page(PRESETS | {"cuda_convnet": changed}).splitlines()
    assert [line for line in before if line not in now] == [
        "|  | from epoch 74 | `cuda_convnet`, `half`, `six_conv` [170.params] |"
    ]
    assert [line for line in now if line not in before] == [
        "|  | from epoch 72 | `cuda_convnet` [170.params] |",
        "|  | from epoch 74 | `half`, `six_conv` [170.params] |",
    ]


def with_field(config: Any, name: str, value: Any) -> Any:
    """The config with one field, such as model.conv1.kernels, replaced."""
    field, _, rest = name.partition(".")
    return replace(config, **{field: with_field(getattr(config, field), rest, value) if rest else value})


def values(config: Config) -> list[str | None]:
    """What the page says about a preset, without the counts: they change with fields that no choice names."""
    return [row.value(config) for row in ROWS if row.sources != "counted"]


def shows(config: Config, name: str, value: Any) -> bool:
    try:
        return values(with_field(config, name, value)) != values(config)
    except BadInput:  # the changed field does not fit the rest
        return False


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_in_which_a_preset_differs_is_on_the_page(name: str) -> None:
    """A change of the field shows in one of the two presets: the stairs of a schedule only matter to a staircase."""
    config = preset(name)
    first = next(other for other in PRESETS.values() if type(other.model) is type(config.model))
    for field in diff(first, config).keys() - {"preset"}:
        layer = ".".join(field.split(".")[:2])
        both = [attrgetter(layer)(either) for either in (first, config)]
        # Only the field is replaced, unless one of the two lacks the layer.
        if layer != field and None not in both:
            layer, both = field, [attrgetter(field)(either) for either in (first, config)]
        assert shows(first, layer, both[1]) or shows(config, layer, both[0]), field


def test_the_file_of_sources_names_every_preset_and_choice_and_nothing_else() -> None:
    assert WORDS["presets"].keys() == PRESETS.keys()
    assert WORDS["choices"].keys() == WORDS["subjects"].keys()
    choices = {name: table for its in WORDS["choices"].values() for name, table in its.items()}
    assert choices.keys() == SCRIPT["VALUES"].keys()
    for table in (*WORDS["defaults"].values(), *choices.values()):
        assert table.keys() - {"row", "default", "everywhere"} <= PRESETS.keys()


def test_a_cell_without_a_source_is_an_error() -> None:
    new = replace(preset("paper"), preset="new")
    with pytest.raises(KeyError, match="of new has no source"):
        page(PRESETS | {"new": new})
    row = SCRIPT["Row"]("a new choice", lambda config: "something", {"paper": "P 5"})
    assert row.lines({"paper": preset("paper")}) == ["| a new choice | something | `paper` [P 5] |"]
    with pytest.raises(KeyError, match="'a new choice' of caffe has no source"):
        row.lines({"caffe": preset("caffe")})


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
