"""Draw a comparison: time against n per family, and the speed-up over the best peer.

Usage:
    python bench/plot.py results.json results.png
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from environment import caption
from measure import Record
from peers import OURS
from report import packages_of, read, seconds_of, speed_up, versions_of

# Okabe & Ito's palette, told apart by colour-blind readers too; ours is black and thick.
_COLOURS = {
    OURS: "#000000",
    "scipy": "#0072B2",
    "lap": "#E69F00",
    "lapx": "#009E73",
    "lapjv": "#CC79A7",
    "ortools": "#56B4E9",
}
_COLUMNS = 5


def draw(records: Sequence[Record], path: Path, source: str = "") -> None:
    """Write the figure, `source` at its foot; the file's suffix chooses the format."""
    families = list(dict.fromkeys(record.family for record in records))
    rows = math.ceil(len(families) / _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.6 * rows + 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=[2.6 * rows + 0.6, 3.6])
    panels = above.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, family in zip(panels, families, strict=False):
        draw_times(axes, [record for record in records if record.family == family])
    for axes in panels[len(families) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    above.supxlabel("n", fontsize="medium")
    above.supylabel("seconds per solve", fontsize="medium")
    draw_speed_ups(below.subplots(), records)
    if source:
        figure.supxlabel(textwrap.fill(source, 200), fontsize="x-small", color="0.35")
    figure.savefig(path, dpi=150)


def draw_times(axes: Axes, records: Sequence[Record]) -> None:
    """Draw one family: median seconds against n, one line per package, and the time of one pass over the matrix."""
    sizes = [record.n for record in records]
    for package in packages_of(records):
        seconds = [seconds_of(record, package) or math.nan for record in records]
        width = 2.4 if package == OURS else 1.2
        axes.plot(sizes, seconds, "o-", color=_COLOURS.get(package), label=package, linewidth=width, markersize=3.5)
    passes = [record.pass_seconds or math.nan for record in records]
    axes.plot(sizes, passes, ":", color="grey", label="one pass over the matrix")
    axes.set(xscale="log", yscale="log", title=records[0].family)
    axes.set_xticks(sizes, [str(n) for n in sizes], minor=False, fontsize="small")
    axes.minorticks_off()
    axes.grid(alpha=0.25)


def draw_speed_ups(axes: Axes, records: Sequence[Record]) -> None:
    """Draw best peer / rebasin_fast as bars: one group per family, one bar per size."""
    families = list(dict.fromkeys(record.family for record in records))
    sizes = sorted({record.n for record in records})
    width = 0.8 / len(sizes)
    for k, n in enumerate(sizes):
        ups = {record.family: up for record in records if record.n == n and (up := speed_up(record)) is not None}
        places = [families.index(family) + (k - (len(sizes) - 1) / 2) * width for family in ups]
        shade = 0.75 - 0.65 * (k + 1) / len(sizes)
        bars = axes.bar(places, [up - 1 for up in ups.values()], width, bottom=1.0, label=f"n = {n}", color=str(shade))
        axes.bar_label(bars, [f"{up:.2g}" for up in ups.values()], fontsize=6)
    axes.axhline(1.0, color="#D55E00", linewidth=1)
    axes.set(yscale="log", ylabel="best peer / rebasin_fast", title="Speed-up over the best peer")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.1)
    axes.set_xticks(range(len(families)), families, rotation=30, ha="right")
    axes.legend(frameon=False, ncols=len(sizes))
    axes.grid(axis="y", alpha=0.25)


def main(arguments: list[str] | None = None) -> int:
    """Draw the figure of one results file."""
    parser = argparse.ArgumentParser(description="draw the figure of a comparison")
    parser.add_argument("results", type=Path, help="JSON that compare.py wrote")
    parser.add_argument("figure", type=Path, help="file to write (.png, .svg, .pdf)")
    options = parser.parse_args(arguments)
    records, about = read(options.results)
    draw(records, options.figure, caption(about, versions_of(records)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
