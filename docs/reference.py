"""The pages of the reference, written anew at every build from what the package exports.

A name that is added to `rebasin_fast.__all__` is in the documentation without further ado; one from a module that no
page knows of is on the last.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import NamedTuple

import rebasin_fast


class Page(NamedTuple):
    """What one page shows: the exported names that come from `modules`."""

    name: str
    title: str
    modules: tuple[str, ...]


PAGES = (
    Page("assignment", "Assignment", ("lap", "batch", "factored", "wreath", "verify", "scipy_patch")),
    Page(
        "specifications",
        "Specifications",
        ("spec", "layout", "report", "prove", "architectures", "symmetries"),
    ),
    Page("permutations", "Permutations", ("permute",)),
    Page(
        "matching",
        "Matching",
        (
            "weight_matching",
            "weight_matcher",
            "_matching_result",
            "block_matching",
            "activation_matching",
            "sites",
            "straight_through",
        ),
    ),
    Page("merging", "Merging", ("merge_many", "interpolate", "batch_norm")),
    Page("evaluation", "Evaluation", ("evaluate", "calibration")),
)
REST = Page("package", "The package itself", ())
MODULES = Page("modules", "Modules beside the main one", ())
ALIASES = {"Permutation": "permute"}  # of types, and the module that explains each
SUBMODULES = ("layout", "cuda", "training", "datasets")


def page_of(name: str) -> Page:
    """Return the page on which an exported name is shown."""
    value = getattr(rebasin_fast, name)
    if name == "build_info" or not (name in ALIASES or inspect.isfunction(value) or inspect.isclass(value)):
        return REST
    module = ALIASES.get(name) or value.__module__.removeprefix("rebasin_fast.")
    return next((page for page in PAGES if module in page.modules), REST)


def documented_members(cls: type) -> list[str]:
    """Return the public methods and properties of a class that have a docstring, in the order of the source."""
    kinds = (classmethod, staticmethod, property)
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds)) and value.__doc__
    ]


def directive(name: str) -> str:
    """Return the lines that make Sphinx show one exported name."""
    value = getattr(rebasin_fast, name)
    if name in ALIASES:
        return f".. autodata:: rebasin_fast.{ALIASES[name]}.{name}\n   :no-value:\n"
    if inspect.isclass(value):
        members = documented_members(value)
        return f".. autoclass:: rebasin_fast.{name}\n" + (f"   :members: {', '.join(members)}\n" if members else "")
    if inspect.isfunction(value):
        return f".. autofunction:: rebasin_fast.{name}\n"
    if inspect.ismodule(value):
        return f":py:mod:`{value.__name__}`: {(value.__doc__ or '').splitlines()[0]}\n"
    return f".. py:data:: {name}\n   :value: {value!r}\n"


def text_of(page: Page, names: list[str]) -> str:
    """Return a page in reStructuredText."""
    body = "\n".join(directive(name) for name in names)
    return f"{heading(page.title)}.. py:currentmodule:: rebasin_fast\n\n{body}"


def heading(title: str) -> str:
    """Return the heading of a page."""
    return f"{title}\n{'=' * len(title)}\n\n"


def text_of_modules() -> str:
    """Return the page of the modules that are imported by their own names."""
    shown = "\n".join(f".. automodule:: rebasin_fast.{name}\n   :members:\n" for name in SUBMODULES)
    return heading(MODULES.title) + shown


def pages() -> dict[str, str]:
    """Return the text of every page by its file name, the index among them."""
    names: dict[Page, list[str]] = {page: [] for page in (*PAGES, REST)}
    for name in rebasin_fast.__all__:
        names[page_of(name)].append(name)
    texts = {f"{page.name}.rst": text_of(page, listed) for page, listed in names.items()}
    texts[f"{MODULES.name}.rst"] = text_of_modules()
    toctree = "".join(f"   {name.removesuffix('.rst')}\n" for name in texts)
    texts["index.rst"] = f"{heading('Reference')}Every public name.\n\n.. toctree::\n\n{toctree}"
    return texts


def write_pages(folder: Path) -> None:
    """Write every page that is not there as it should be, and remove all others."""
    folder.mkdir(exist_ok=True)
    texts = pages()
    for path in folder.glob("*.rst"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
