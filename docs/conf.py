"""The site. One command builds it, with warnings as errors: python -m sphinx -W docs docs/_build/html"""

import os
from typing import Any

# The executed pages lay two columns over two devices, on any machine.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

project = "alexnet_jax"
author = "the authors of alexnet_jax"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

smartquotes = False  # quotes in docstrings are code

html_theme = "furo"
html_title = "alexnet_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3

# Pages that begin with `file_format: mystnb` are executed, and show what their code really printed.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

default_role = "code"  # single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


def without_signature(app: Any, what: str, *_: Any) -> tuple[str, str] | None:
    """A config's fields are listed one by one; all of them once more in its signature would be half a page."""
    return ("", "") if what == "class" else None


def only_fields(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Of a config's members its fields, not its methods."""
    return True if what == "class" and (callable(member) or isinstance(member, property)) else None


def plain_stars(app: Any, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """In our docstrings a star is a star, as in f(x, *, key=None), and begins no emphasis."""
    lines[:] = [line if line.startswith(">>>") else line.replace("*", r"\*") for line in lines]


def links_within_the_site(app: Any, path: Any, page: str, text: list[str]) -> None:
    """Files outside this folder that pages include link to each other where they lie; here they are pages."""
    text[0] = text[0].replace("](../docs/", "](").replace("](../experiments/LOG.md", "](log.md")
    text[0] = text[0].replace("](../benchmarks/README.md", "](benchmarks.md")


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", without_signature)
    app.connect("autodoc-skip-member", only_fields)
    app.connect("autodoc-process-docstring", plain_stars)
    app.connect("include-read", links_within_the_site)
