"""From records to tables: aligned plain text, or Markdown for a README.

Usage:
    python bench/report.py results.json [more.json] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from checking import Reference
from environment import caption
from measure import NOT_APPLICABLE, NOT_INSTALLED, OK, OVER_LIMIT, SKIPPED, WRONG, Outcome, Record
from peers import OURS

_WORD = {WRONG: "WRONG", OVER_LIMIT: "> limit", SKIPPED: "skip", NOT_APPLICABLE: "n/a", NOT_INSTALLED: "-"}


def read(path: Path) -> tuple[list[Record], dict[str, Any]]:
    """Return the records and the environment of a JSON file that compare.py wrote."""
    content = json.loads(path.read_text())
    return [_record(entry) for entry in content["records"]], content["environment"]


def _record(entry: dict[str, Any]) -> Record:
    reference = None if entry["reference"] is None else Reference(**entry["reference"])
    outcomes = [Outcome(**outcome) for outcome in entry["outcomes"]]
    return Record(**{**entry, "shape": tuple(entry["shape"]), "reference": reference, "outcomes": outcomes})


def packages_of(records: Sequence[Record]) -> list[str]:
    """Return the packages that occur, in the order of the registry."""
    return list(dict.fromkeys(outcome.package for record in records for outcome in record.outcomes))


def best_of(record: Record, package: str) -> Outcome | None:
    """Return the package's fastest right outcome, or its first one if none is right; None if it has none."""
    outcomes = [outcome for outcome in record.outcomes if outcome.package == package]
    timed = [outcome for outcome in outcomes if outcome.status == OK and outcome.seconds is not None]
    return min(timed, key=lambda o: o.seconds or 0.0) if timed else next(iter(outcomes), None)


def seconds_of(record: Record, package: str) -> float | None:
    """Return the median seconds of the package's fastest right solver, or None."""
    best = best_of(record, package)
    return best.seconds if best is not None and best.status == OK else None


def best_peer(record: Record) -> tuple[str, float] | None:
    """Return (solver, seconds) of the fastest right solver that is not ours, or None."""
    timed = [(o.seconds, o.solver) for o in record.outcomes if o.package != OURS and o.status == OK and o.seconds]
    return (min(timed)[1], min(timed)[0]) if timed else None


def speed_up(record: Record) -> float | None:
    """Return best peer's seconds / our seconds, or None where either is missing."""
    ours, peer = seconds_of(record, OURS), best_peer(record)
    return peer[1] / ours if ours and peer else None


def passes(record: Record) -> float | None:
    """Return our seconds / those of one pass over the matrix, or None where either is missing."""
    ours = seconds_of(record, OURS)
    return ours / record.pass_seconds if ours and record.pass_seconds else None


def pass_speed(record: Record) -> float | None:
    """Return the bytes per second of one pass over the matrix, or None."""
    size = math.prod(record.shape) * np.dtype(record.dtype).itemsize
    return size / record.pass_seconds if record.pass_seconds else None


def versions_of(records: Sequence[Record]) -> dict[str, str]:
    """Return the versions of the peers that ran."""
    outcomes = [outcome for record in records for outcome in record.outcomes]
    return {outcome.package: outcome.version for outcome in outcomes if outcome.package != OURS and outcome.version}


def table(records: Sequence[Record]) -> str:
    """Return the comparison as text: times, then extra memory, then notes on everything that is not a time."""
    parts = [_times(records), _memory(records), _notes(records)]
    return "\n\n".join(part for part in parts if part)


def _times(records: Sequence[Record]) -> str:
    packages = packages_of(records)
    header = ["family", "n", *packages, "best peer", "speed-up", "passes"]
    rows = [_time_row(record, packages) for record in records]
    title = "Median ms per solve; speed-up: best peer / rebasin_fast; passes: rebasin_fast / one pass over the matrix"
    return "\n".join([title, aligned([header, *rows]), *_summary(records)])


def _summary(records: Sequence[Record]) -> list[str]:
    lines = []
    ups = [up for record in records if (up := speed_up(record)) is not None]
    if ups:
        mean = math.exp(sum(map(math.log, ups)) / len(ups))
        lines.append(f"speed-up: geometric mean {mean:.2f}x, least {min(ups):.2f}x, most {max(ups):.2f}x")
    if records and (speed := pass_speed(max(records, key=lambda record: math.prod(record.shape)))) is not None:
        lines.append(f"one pass: NumPy's minimum on one thread, {speed / 1e9:.1f} GB/s on the largest matrix")
    return lines


def markdown(records: Sequence[Record], about: Mapping[str, Any]) -> str:
    """Return ours, best peer, ratio and passes as a Markdown table, and under it what it was measured on."""
    header = ["costs", "rows x columns", "dtype", "ours, ms", "best peer, ms", "best peer", "ratio", "passes"]
    lines = [header, ["---", *["---:"] * 4, "---", "---:", "---:"], *map(_markdown_row, records)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    foot = "; ".join(_summary(records))
    return f"{text}\n\n{foot}\n\n{caption(about, versions_of(records))}\n"


def _markdown_row(record: Record) -> list[str]:
    peer = best_peer(record)
    return [
        record.family,
        f"{record.shape[0]} x {record.shape[1]}",
        record.dtype,
        _cell(best_of(record, OURS)),
        milliseconds(peer[1]) if peer else _no_peer(record),
        peer[0] if peer else "-",
        _or_dash("{:.2f}", speed_up(record)),
        _or_dash("{:.1f}", passes(record)),
    ]


def _no_peer(record: Record) -> str:
    """Say why no peer has a time: over the limit if any of them was."""
    given_up = any(o.status in (OVER_LIMIT, SKIPPED) for o in record.outcomes if o.package != OURS)
    return _WORD[OVER_LIMIT] if given_up else "-"


def _time_row(record: Record, packages: Sequence[str]) -> list[str]:
    peer, up = best_peer(record), speed_up(record)
    return [
        record.family,
        str(record.n),
        *(_cell(best_of(record, package)) for package in packages),
        peer[0] if peer else "-",
        _or_dash("{:.2f}x", up),
        _or_dash("{:.1f}", passes(record)),
    ]


def _or_dash(text: str, value: float | None) -> str:
    return "-" if value is None else text.format(value)


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    if outcome.status == OK and outcome.seconds is not None:
        return milliseconds(outcome.seconds)
    return _WORD.get(outcome.status, outcome.status)


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds with three significant digits."""
    value = 1e3 * seconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _memory(records: Sequence[Record]) -> str:
    """Return the extra memory of the largest size measured: one row per family."""
    packages = packages_of(records)
    largest = max((record.n for record in records), default=0)
    rows = [
        [record.family, str(record.n), *(_memory_cell(best_of(record, package)) for package in packages)]
        for record in records
        if record.n == largest
    ]
    title = "Peak extra memory during a solve, as a multiple of the matrix"
    return f"{title}\n{aligned([['family', 'n', *packages], *rows])}" if rows else ""


def _memory_cell(outcome: Outcome | None) -> str:
    return "-" if outcome is None or outcome.extra_memory is None else f"{outcome.extra_memory:.2f}"


def _notes(records: Sequence[Record]) -> str:
    """Return one line per distinct reason, naming where it struck."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        for outcome in record.outcomes:
            if outcome.status not in (OK, SKIPPED):
                key = (outcome.solver, _WORD.get(outcome.status, outcome.status), outcome.detail)
                where.setdefault(key, []).append(f"{record.family}/{record.n}")
    lines = [f"{solver} {word.strip()}: {detail} ({_some(places)})" for (solver, word, detail), places in where.items()]
    lines += _proofs(records)
    return "\n".join(lines)


def _proofs(records: Sequence[Record]) -> list[str]:
    """Say by what the answers were checked."""
    sources = [record.reference.source for record in records if record.reference is not None]
    counts = [f"{sources.count(source)} by {text}" for source, text in _SOURCE.items() if source in sources]
    return [f"optimum established {' and '.join(counts)}"] if counts else []


_SOURCE = {"certified": "a dual certificate recomputed here", "scipy": "SciPy"}


def _some(places: Sequence[str], most: int = 4) -> str:
    return ", ".join(places[:most]) + (f" and {len(places) - most} more" if len(places) > most else "")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text, the first column flush left, the others flush right, a rule under the header."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    pad: Callable[[int, str], str] = lambda k, cell: cell.ljust(widths[k]) if k == 0 else cell.rjust(widths[k])  # noqa: E731
    lines = ["  ".join(pad(k, cell) for k, cell in enumerate(row)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of results files again."""
    parser = argparse.ArgumentParser(description="print the tables of comparisons that were written to JSON")
    parser.add_argument("results", type=Path, nargs="+", help="JSON that compare.py wrote")
    parser.add_argument("--markdown", action="store_true", help="ours, best peer, ratio and passes in Markdown")
    options = parser.parse_args(arguments)
    for path in options.results:
        records, about = read(path)
        print(markdown(records, about) if options.markdown else f"{table(records)}\n\n{caption(about)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
