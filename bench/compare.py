"""Compare rebasin_fast with its peers, side by side, every answer checked before it is timed.

Usage:
    python bench/compare.py --install --sizes 512,2048 --json results.json --plot results.png
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import install_peers
from families import DTYPES, FAMILIES
from measure import FAILED, OVER_LIMIT, SKIPPED, WRONG, Record, Settings, Task, measure
from peers import OURS, PEERS_DIR, SOLVERS, Solver, solvers_named
from report import table

FORMAT = 1
"""Version of the JSON's layout."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options; an unusable one ends the program with a message that names it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--families", type=_families, default=list(FAMILIES), help="comma separated (default: all); --list shows them")
    add("--sizes", type=_sizes, default=[512, 2048], help="comma separated n (default: 512,2048)")
    add("--dtype", choices=DTYPES, default="float32", help="integer types: families of integers only")
    add("--threads", type=_positive_int, default=1, help="threads every solver may use (default: 1)")
    add("--repeats", type=_positive_int, default=3, help="timed samples, of which the median counts (default: 3)")
    add("--solvers", type=_solvers, default=solvers_named(None), help="solvers or packages (default: all)")
    add("--seed", type=int, default=0, help="of the instances (default: 0)")
    add("--limit-seconds", type=float, default=5.0, help="per solve; over it, larger sizes are skipped (default: 5)")
    add("--json", type=Path, metavar="OUT", help="write everything measured")
    add("--plot", type=Path, metavar="OUT", help="write a figure (.png, .svg, .pdf)")
    add("--install", action="store_true", help="first install the peers that are missing")
    add("--peers-dir", type=Path, default=PEERS_DIR, help="where the peers are installed (default: .bench-peers)")
    add("--list", action="store_true", help="list families and solvers, and stop")
    options = parser.parse_args(arguments)
    if options.limit_seconds <= 0:
        parser.error(f"--limit-seconds is {options.limit_seconds}; expected a positive number")
    if options.dtype.startswith("int"):
        options.families = [name for name in options.families if FAMILIES[name].integral]
        if not options.families:
            parser.error(f"--dtype is {options.dtype}, but none of the families has integer costs")
    for path in (options.json, options.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: its folder does not exist")
    return options


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _families(text: str) -> list[str]:
    if unknown := [name for name in _names(text) if name not in FAMILIES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected some of {', '.join(FAMILIES)}")
    return _names(text)


def _sizes(text: str) -> list[int]:
    return sorted({_positive_int(size) for size in _names(text)})


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return value


def _solvers(text: str) -> list[Solver]:
    try:
        return solvers_named(_names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a reader needs to judge the figures: machine, versions, date, command."""
    return {
        "cpu": _cpu_model(),
        "logical_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rebasin_fast": _build(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "bench/compare.py " + " ".join(sys.argv[1:]),
        "threads": options.threads,
        "repeats": options.repeats,
        "limit_seconds": options.limit_seconds,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _build() -> dict[str, Any] | None:
    """Return what our build says of itself, or None when it is not installed."""
    try:
        from rebasin_fast import build_info
    except ImportError:
        return None
    return dict(build_info())


def run(options: argparse.Namespace) -> list[Record]:
    """Measure everything asked for; the JSON is brought up to date after each instance, so that a stop loses one."""
    settings = Settings(options.threads, options.repeats, options.limit_seconds, options.peers_dir)
    records: list[Record] = []
    total = len(options.families) * len(options.sizes)
    for family in options.families:
        skip: set[str] = set()
        for n in options.sizes:
            label = f"[{len(records) + 1}/{total}] {family} n={n}"
            task = Task(family, n, options.dtype, options.seed)
            records.append(measure(task, options.solvers, settings, skip, lambda step, label=label: _say(label, step)))
            skip |= {outcome.solver for outcome in records[-1].outcomes if outcome.status in (OVER_LIMIT, SKIPPED)}
            if options.json is not None:
                write_json(options.json, options, records)
    _say("", "")
    return records


def _say(label: str, step: str) -> None:
    """Show progress: one line rewritten on a terminal, one line per instance in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{label} {step}", end="", file=sys.stderr, flush=True)
    elif step.startswith("making"):
        print(label, file=sys.stderr, flush=True)


def write_json(path: Path, options: argparse.Namespace, records: list[Record]) -> None:
    """Write the file whole or not at all."""
    content = {"format": FORMAT, "environment": environment(options), "records": [asdict(record) for record in records]}
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _list() -> None:
    for family in FAMILIES.values():
        print(f"{family.name:12} {family.about} [{family.source}]")
    print("solvers:", ", ".join(SOLVERS))


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; the exit status is 1 if any answer of ours was not right, else 0."""
    options = parse(arguments)
    if options.list:
        _list()
        return 0
    if options.install:
        install_peers.main(["--peers-dir", str(options.peers_dir)])
    records = run(options)
    print(table(records))
    if options.plot is not None:
        from plot import draw

        draw(records, options.plot)
    ours = [outcome for record in records for outcome in record.outcomes if outcome.package == OURS]
    return int(any(outcome.status in (WRONG, FAILED) for outcome in ours))


if __name__ == "__main__":
    sys.exit(main())
