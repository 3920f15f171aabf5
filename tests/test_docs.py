"""The site and the README: their commands and code run, and what they name exists.

The blocks of a page run in order. `bash` blocks hold commands of this package, which run in this process. `python`
blocks and executed cells share one namespace. A block with a caption is written to the file of that name. If a block
cannot run here, an HTML comment above it gives the reason. Another such comment marks what a command printed:

    <!-- not run by a test: two minutes -->
    <!-- printed by the command above -->
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import run_command
from PIL import Image

import alexnet_jax
from alexnet_jax.__main__ import COMMANDS
from alexnet_jax.command_line import named_config
from alexnet_jax.config import PRESETS, flat

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(alexnet_jax.__file__).parent
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(path for path in DOCS.glob("*.md") if path.name != "fidelity.md"),
]
FOLDERS = ("benchmarks", "docs", "examples", "experiments", "scripts", "src", "tests")
SCRIPTS = [f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")]
NOT_RUN = "<!-- not run by a test: "
PRINTED = "<!-- printed by the command above -->"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix())


class Block(NamedTuple):
    line: int
    kind: str
    """bash, python, text ..; {code-cell} and other directives with their braces"""
    options: dict[str, str]
    code: str
    comment: str
    """the line above the block"""

    @property
    def run(self) -> bool:
        return not self.comment.startswith(NOT_RUN)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = page.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        inside = lines[start + 1 : number]
        options = dict(re.fullmatch(r":([\w-]+): *(.*)", line).groups() for line in inside if line.startswith(":"))
        code = "\n".join(line for line in inside if not line.startswith(":"))
        yield Block(start + 1, lines[start].removeprefix("```"), options, code, lines[start - 1])
        start = None
    assert start is None, f"{page.name}:{start}: the block has no end"


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a bash block."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """(NAME, ARGUMENTS) of `python -m alexnet_jax.NAME ARGUMENTS` or of a script, anywhere in the line."""
    for at, word in enumerate(words):
        if (word.startswith("alexnet_jax.") and words[at - 1] == "-m") or (
            word.startswith(FOLDERS) and word.endswith(".py") and words[at - 1] == "python"
        ):
            arguments = words[at + 1 :]
            end = next((n for n, argument in enumerate(arguments) if argument.endswith(";")), len(arguments))
            return word.removeprefix("alexnet_jax."), [part.rstrip(";") for part in arguments[: end + 1]]
    return None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory like a clone of the repository, with some images that a reader may have."""
    for name in FOLDERS:
        (tmp_path / name).symlink_to(ROOT / name)
    draw = np.random.default_rng(0)
    for name in ("boot.png", *(f"photos/{kind}/{n}.jpg" for kind in ("cats", "dogs", "owls") for n in range(40))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pages
def test_the_blocks_of_a_page_run(page: Path, place: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    printed = ""
    for block in blocks(page):
        if "caption" in block.options:
            (place / block.options["caption"]).write_text(block.code + "\n")
        elif block.kind == "bash" and block.run:
            for words in commands(block):
                name, arguments = ours(words) or ("", [])
                runs = words[0] == "python" and name in COMMANDS
                assert runs, f"{page.name}:{block.line}: neither run nor marked: {shlex.join(words)}"
                ended = run_command(name, *arguments)
                assert ended.code == 0, f"{page.name}:{block.line}: {shlex.join(words)}\n{ended.err}"
                printed = ended.out
        elif block.comment == PRINTED:
            said = [line.strip() for line in printed.splitlines()]
            assert [line for line in block.code.splitlines() if line.strip() not in said] == [], block.line
        elif block.kind in ("python", "{code-cell}") and block.run:
            lines_before = "\n" * block.line  # so that a traceback shows the line of the page
            exec(compile(lines_before + block.code, str(page), "exec"), names)


@cache
def options_of(name: str, *preset: str) -> set[str]:
    """The options of a command, with the fields of the preset if it takes one, or of a script."""
    if name not in COMMANDS:
        ended = subprocess.run([sys.executable, ROOT / name, "--help"], capture_output=True, text=True, check=True)
        said = ended.stdout
    else:
        helps = ("--help", "--help-all") if name in ("train", "diagnose") else ("--help",)
        said = "".join(run_command(name, *preset, word).out for word in helps)
    found = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", said))
    assert "--help" in found
    return found


@pages
def test_the_commands_on_a_page_exist_with_their_options(page: Path, place: Path) -> None:
    """Also those that do not run here: their names, presets, files and options."""
    assert set(re.findall(r"alexnet_jax\.(\w+)", prose(page))) <= {*COMMANDS, "config"}
    for block in blocks(page):
        if "caption" in block.options:
            (place / block.options["caption"]).write_text(block.code + "\n")
        if block.kind != "bash":
            continue
        for name, arguments in filter(None, map(ours, commands(block))):
            assert name in COMMANDS or (ROOT / name).exists()
            recipe = [arguments[0]] if name in ("train", "diagnose") and arguments and arguments[0][0] != "-" else []
            if recipe:
                named_config(recipe[0])
            given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
            assert given <= options_of(name, *recipe), f"{page.name}:{block.line}"


@pages
def test_the_options_fields_and_files_that_a_page_names_exist(page: Path) -> None:
    """In the text and in tables."""
    code = re.findall(r"`([^`\n]+)`", prose(page))
    known = {option for name in COMMANDS for option in options_of(name)}
    known |= {option for preset in PRESETS for option in options_of("train", preset)}
    known |= (
        {option for script in SCRIPTS for option in options_of(script)} if page.parent.name == "benchmarks" else set()
    )
    for text in code:
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text):
            assert option in known or text.startswith(("pip ", "XLA_FLAGS")), text
        for field in re.findall(r"(?<![\w.-])(?:model|optim|data)\.[a-z][\w.]*", text):
            assert field in fields(), text
        for path in re.findall(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w./-]*", text):
            assert path.startswith("docs/_build") or (ROOT / path).exists(), text  # built by the command
        for path in re.findall(r"(?<![\w/.])(?:config|networks|data|training|weights)/\w+\.py", text):
            assert (PACKAGE / path).exists(), text
    for target in re.findall(r"\]\(([^)#:\s]+)\)", prose(page)):
        assert (page.parent / target).exists(), target


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text())


@cache
def fields() -> set[str]:
    """Every field of every preset, and the dataclasses that hold fields: model.conv1.std, model.conv1."""
    names = {name for config in PRESETS.values() for name in flat(config)}
    return names | {name[: match.start()] for name in names for match in re.finditer(r"\.", name)}


def test_the_presets_page_has_every_preset() -> None:
    rows = re.findall(r"(?m)^\| (`.*?`) \|", prose(DOCS / "presets.md"))
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} >= set(PRESETS)


def test_the_api_page_has_every_public_name() -> None:
    documented = re.findall(r"(?m)^\.\. auto\w+:: alexnet_jax\.(\w+)$", (DOCS / "api.md").read_text())
    assert sorted(documented) == sorted(alexnet_jax.__all__)


def test_every_page_is_reached_from_the_index() -> None:
    listed = {line for block in blocks(DOCS / "index.md") if block.kind == "{toctree}" for line in block.code.split()}
    assert listed == {page.stem for page in DOCS.glob("*.md")} - {"index"}


def test_the_front_page_is_short_and_narrow() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert [number for number, line in enumerate(lines, 1) if len(line) > 120] == []
