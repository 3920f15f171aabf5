"""Python files of the user that define a config or an experiment."""

import runpy
from pathlib import Path
from typing import Any

from alexnet_jax.config.errors import BadInput


def names_in(path: str) -> dict[str, Any]:
    """What a Python file defines. Raises BadInput if there is no such file or it cannot be run."""
    if not Path(path).is_file():
        raise BadInput(f"there is no file {path}")
    try:
        return runpy.run_path(path)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise BadInput(f"{path} cannot be run: {type(error).__name__}: {error}") from error
