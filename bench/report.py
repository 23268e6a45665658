"""From records to an aligned table in plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from measure import NOT_APPLICABLE, NOT_INSTALLED, OK, OVER_LIMIT, SKIPPED, WRONG, Outcome, Record
from peers import OURS

_WORD = {WRONG: "WRONG", OVER_LIMIT: "> limit", SKIPPED: "skip", NOT_APPLICABLE: "n/a", NOT_INSTALLED: "-"}


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


def table(records: Sequence[Record]) -> str:
    """Return the comparison as text: times, then extra memory, then notes on everything that is not a time."""
    parts = [_times(records), _memory(records), _notes(records)]
    return "\n\n".join(part for part in parts if part)


def _times(records: Sequence[Record]) -> str:
    packages = packages_of(records)
    header = ["family", "n", *packages, "best peer", "speed-up", "passes"]
    rows = [_time_row(record, packages) for record in records]
    ups = [up for record in records if (up := speed_up(record)) is not None]
    title = "Median ms per solve; speed-up: best peer / rebasin_fast; passes: rebasin_fast / one pass over the matrix"
    text = title + "\n" + aligned([header, *rows])
    if ups:
        mean = math.exp(sum(map(math.log, ups)) / len(ups))
        text += f"\nspeed-up: geometric mean {mean:.2f}x, least {min(ups):.2f}x, most {max(ups):.2f}x"
    return text


def _time_row(record: Record, packages: Sequence[str]) -> list[str]:
    peer, ours, up = best_peer(record), seconds_of(record, OURS), speed_up(record)
    passes = ours / record.pass_seconds if ours and record.pass_seconds else None
    return [
        record.family,
        str(record.n),
        *(_cell(best_of(record, package)) for package in packages),
        peer[0] if peer else "-",
        f"{up:.2f}x" if up is not None else "-",
        f"{passes:.1f}" if passes is not None else "-",
    ]


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
