"""Figures in one style, made without pyplot: no global state, no window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rebasin_fast._extras import require

COLORS = {
    "naive": "#c44e52",
    "weight matching": "#1f6fb4",
    "activation matching": "#3b9c6b",
    "straight-through": "#8a5fb0",
}
"""One colour for each way from A to B, the same in all figures."""

LINES: dict[str, dict[str, Any]] = {
    "naive": {"lw": 1.6},
    "weight matching": {"lw": 2.6},
    "activation matching": {"lw": 1.4},
    "straight-through": {"lw": 1.4, "ls": (0, (4, 2))},
}
"""How the ways are drawn, so that those that lie on each other can be told apart."""


def grid(rows: int, columns: int, *, width: float = 3.4, height: float = 2.7) -> tuple[Any, Any]:
    """Return a figure and its axes, an array of `rows` by `columns`."""
    figure = require("matplotlib.figure", "plot").Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(color="#e6e6e6", lw=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Write title and names of the axes."""
    axes.set_title(title, fontsize=9.5)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)


def legend(axes: Any, *, beside: bool = False) -> None:
    """Explain what is drawn, within the axes or to the right of them."""
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if beside else {}
    axes.legend(frameon=False, fontsize=7.5, **place)


def legend_below(figure: Any, axes: Any) -> None:
    """Explain what is drawn in `axes`, and alike in the others, under all of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def from_a_to_b(axes: Any) -> None:
    """Mark the horizontal axis as the way from A to B."""
    axes.set_xlim(0.0, 1.0)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["A", "1/4", "1/2", "3/4", "B"])


def reliability(axes: Any, named: Sequence[tuple[str, dict[str, Any], str]]) -> None:
    """Draw reliability diagrams: (name, what `rebasin_fast.reproduce.measure.said` returned, colour) for each.

    Bins of fewer than ten examples are left out, as their accuracy is chance.
    """
    axes.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=(0, (3, 3)))
    for name, found, color in named:
        bins = zip(found["count"], found["bin_confidence"], found["bin_accuracy"], strict=True)
        full = [(confidence, accuracy) for count, confidence, accuracy in bins if count >= 10]
        shown = f"{name}, ECE {100 * found['ece']:.2f} %"
        axes.plot([x for x, _ in full], [y for _, y in full], "o-", ms=3.5, lw=1.2, color=color, label=shown)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
