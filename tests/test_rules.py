"""The rules of the code: imports run one way, collectives are in one file, importing has no side effects."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_jax
from alexnet_jax.__main__ import COMMANDS

SOURCE = Path(alexnet_jax.__file__).parent
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path.name != "__init__.py"]
MAY_IMPORT = {
    "config": {"config"},
    "networks": {"config", "networks"},
    "data": {"config", "data", "networks"},
    "weights": {"config", "weights"},
    "training": {"config", "data", "networks", "training", "weights"},
    "ablation": {"ablation", "config", "data", "networks", "training"},
}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alexnet_jax"):
            parts = (node.module or "").split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in MAY_IMPORT], ids=lambda path: path.stem)
def test_imports_run_one_way(path: Path) -> None:
    assert rooms_imported(path) <= MAY_IMPORT[room(path)]


def test_a_file_directly_in_the_package_is_a_command_or_its_shell() -> None:
    files = {path.stem for path in SOURCE.glob("*.py")}
    assert files - {"__init__", "__main__", "command_line"} == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_other_command(name: str) -> None:
    imported = rooms_imported(SOURCE / f"{name}.py")
    assert imported.isdisjoint(COMMANDS), "what commands share belongs in one of the folders"
    assert imported <= MAY_IMPORT.keys() | {"command_line"}


def test_collectives_are_in_one_file() -> None:
    pattern = r"\b(psum|pmean|pmax|all_gather|psum_scatter|ppermute|all_to_all|pcast|axis_index|shard_map)\("
    assert [path.stem for path in FILES if re.search(pattern, path.read_text())] == ["columns"]


def test_importing_touches_no_device() -> None:
    code = "import alexnet_jax, jax._src.xla_bridge as bridge; assert not bridge._backends; print('none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "none\n", done.stderr


def test_importing_is_quick_and_changes_nothing_of_jax() -> None:
    """It does not import what only the commands need."""
    code = """
import sys, jax
before = dict(jax.config.values)
import alexnet_jax
assert jax.config.values == before
slow = {"array_record", "grain", "optax", "orbax", "scipy", "tensorboardX", "tyro"}
print(slow & {name.partition(".")[0] for name in sys.modules} or "none")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "none\n", done.stdout + done.stderr


def test_the_functional_api_has_the_documented_names() -> None:
    names = ["evaluate", "features", "fit", "forward", "init", "load", "make_mesh", "preset", "shard"]
    assert alexnet_jax.__all__ == names
    assert all(callable(getattr(alexnet_jax, name)) for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = alexnet_jax.train


def test_on_windows_one_sentence_names_the_supported_systems() -> None:
    code = "import sys; sys.platform = 'win32'; import alexnet_jax"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: alexnet_jax runs on Linux and macOS, and on Windows in WSL" in done.stderr
