"""The docstrings of the functional API have examples. They run here in the order of a first session."""

import doctest
import inspect
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import alexnet_jax as alexnet

SESSION = ["preset", "init", "forward", "features", "make_mesh", "shard", "fit", "load", "evaluate"]


def test_every_public_name_is_documented_with_an_example_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert sorted(SESSION) == alexnet.__all__
    monkeypatch.chdir(tmp_path)
    known = {"alexnet": alexnet, "jax": jax, "jnp": jnp, "replace": replace}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for name in SESSION:
        function = getattr(alexnet, name)
        text = inspect.getdoc(function)
        assert text
        assert "BadInput" in text or name == "init", f"{name} must say what it raises"
        test = doctest.DocTestParser().get_doctest(text, known, name, None, None)
        assert test.examples, f"{name} must have an example"
        assert runner.run(test, clear_globs=False).failed == 0, name


@pytest.mark.parametrize("name", SESSION)
def test_the_public_api_is_typed(name: str) -> None:
    signature = inspect.signature(getattr(alexnet, name))
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())
    assert signature.return_annotation is not signature.empty
