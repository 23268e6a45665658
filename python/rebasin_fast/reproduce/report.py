"""What an experiment hands over: a table, its numbers beside the paper's, a figure; and how they are written."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rebasin_fast._extras import require
from rebasin_fast._files import whole_files

Cell: TypeAlias = "str | int | float | None"
"""None is shown as nothing."""


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes
    ----------
    columns : tuple of str
    rows : tuple of tuple of (str, int, float or None)
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """Return the table as comma-separated values, numbers to six digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_shown(cell, 6) for cell in row] for row in self.rows)
        return text.getvalue()

    def markdown(self) -> str:
        """Return the table in Markdown, numbers to four digits."""
        lines = [self.columns, ["---"] * len(self.columns)]
        return "".join(f"| {' | '.join(line)} |\n" for line in (*lines, *self.shown()))

    def shown(self) -> list[list[str]]:
        """Return the cells as text, numbers to four digits."""
        return [[_shown(cell, 4) for cell in row] for row in self.rows]

    def records(self) -> list[dict[str, Cell]]:
        """Return each row as a mapping of headings to cells."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Beside:
    """One number of the paper, or what it says, with ours.

    Attributes
    ----------
    what : str
    ours, paper : str, int or float
    """

    what: str
    ours: Cell
    paper: Cell


@dataclass(frozen=True)
class Summary:
    """What an experiment makes of its numbers.

    Attributes
    ----------
    table : Table
    beside : tuple of Beside
    notes : tuple of str
        What one has to know to compare; a sentence each.
    """

    table: Table
    beside: tuple[Beside, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome of one experiment.

    Attributes
    ----------
    name, title : str
    scale : str
    seed : int
    made_with : dict of str to (str or int)
        Versions, device and number of threads.
    summary : Summary
    numbers : list of dict
        Every case with its settings and all that was measured, curves included.
    draw : callable
        Draws the numbers: () to a matplotlib figure.
    """

    name: str
    title: str
    scale: str
    seed: int
    made_with: dict[str, str | int]
    summary: Summary
    numbers: list[dict[str, Any]]
    draw: Callable[[], Any]

    def json(self) -> dict[str, Any]:
        """Return everything as JSON takes it; numbers that are not finite as None."""
        content: dict[str, Any] = _finite(
            {
                "experiment": self.name,
                "title": self.title,
                "scale": self.scale,
                "seed": self.seed,
                "made with": self.made_with,
                "table": self.summary.table.records(),
                "beside the paper": [[row.what, row.ours, row.paper] for row in self.summary.beside],
                "notes": list(self.summary.notes),
                "cases": self.numbers,
            }
        )
        return content

    def markdown(self) -> str:
        """Return title, command, tables and notes."""
        command = f"rebasin-fast reproduce {self.name} --data DIR --out DIR --scale {self.scale} --seed {self.seed}"
        parts = [
            f"# {self.title}\n",
            f"`{command}`\n",
            self.summary.table.markdown(),
            f"![{self.title}]({self.name}.png)\n",
        ]
        parts += ["## Beside the paper\n", beside_table(self.summary.beside).markdown()]
        if self.summary.notes:
            parts.append("".join(f"- {note}\n" for note in self.summary.notes))
        return "\n".join(parts)


def beside_table(beside: Sequence[Beside]) -> Table:
    """Return our numbers and the paper's as a table."""
    return Table(("", "ours", "paper"), tuple((row.what, row.ours, row.paper) for row in beside))


def files_of(name: str, out: Path) -> list[Path]:
    """Return the files that `write` makes."""
    return [out / f"{name}.{suffix}" for suffix in ("csv", "md", "json", "png", "svg")]


def write(report: Report, out: Path, *, overwrite: bool) -> list[Path]:
    """Write table, text, numbers and figure into a folder, all of them or none; return their paths."""
    files = files_of(report.name, out)
    figure = report.draw()
    # Letters stay letters, and nothing in the file depends on when it was written.
    style = require("matplotlib", "plot").rc_context({"svg.fonttype": "none", "svg.hashsalt": report.name})
    with whole_files(files, overwrite=overwrite) as (table, text, numbers, png, svg), style:
        table.write_text(report.summary.table.csv(), encoding="utf-8")
        text.write_text(report.markdown(), encoding="utf-8")
        numbers.write_text(json.dumps(report.json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        figure.savefig(png, dpi=100)
        figure.savefig(svg, metadata={"Date": None})
    return files


def ratio(part: float, whole: float) -> float | None:
    """Return by which fraction of `whole` `part` is smaller; None where there is nothing to fall."""
    return 1.0 - part / whole if whole > 0.0 else None


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.{digits}g}"
    return str(cell)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
