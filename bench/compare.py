"""Compare rebasin_fast with its peers, side by side, every answer checked before it is timed.

Usage:
    python bench/compare.py --install --sizes 512,2048 --json results.json --plot results.png
    python bench/compare.py --suite large --limit-seconds 60 --limit-gib 8 --json large.json --markdown large.md
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import install_peers
from arguments import add_json, families, names, output_file, positive_int, positive_ints, positive_number
from environment import caption, environment, write_json
from families import DTYPES, FAMILIES
from measure import FAILED, OVER_LIMIT, SKIPPED, WRONG, Record, Settings, Task, measure
from peers import OURS, PEERS_DIR, SOLVERS, Solver, solvers_named
from report import markdown, table, versions_of
from suites import SUITES, cases

FORMAT = 1
"""Version of the JSON's layout."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options; an unusable one ends the program with a message that names it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--suite", choices=SUITES, default="quick", help="families and sizes; large takes hours (default: quick)")
    add("--families", type=families, help="comma separated (default: the suite's); --list shows them")
    add("--sizes", type=positive_ints, help="comma separated n (default: the suite's)")
    add("--dtype", choices=DTYPES, default="float32", help="integer types: families of integers only")
    add("--threads", type=positive_int, default=1, help="threads every solver may use (default: 1)")
    add("--repeats", type=positive_int, default=3, help="timed samples, of which the median counts (default: 3)")
    add("--solvers", type=_solvers, default=solvers_named(None), help="solvers or packages (default: all)")
    add("--seed", type=int, default=0, help="of the instances (default: 0)")
    add("--limit-seconds", type=positive_number, default=5.0, help="per solve; over it, larger sizes are skipped (5)")
    add("--limit-gib", type=positive_number, help="memory of each solver's process; over it, it fails (default: none)")
    add_json(parser)
    add("--markdown", type=output_file, metavar="OUT", help="write ours, best peer, ratio and passes in Markdown")
    add("--plot", type=output_file, metavar="OUT", help="write a figure (.png, .svg, .pdf)")
    add("--install", action="store_true", help="first install the peers that are missing")
    add("--peers-dir", type=Path, default=PEERS_DIR, help="where the peers are installed (default: .bench-peers)")
    add("--list", action="store_true", help="list families and solvers, and stop")
    options = parser.parse_args(arguments)
    options.cases = cases(options.suite, options.families, options.sizes)
    if options.dtype.startswith("int"):
        options.cases = {name: sizes for name, sizes in options.cases.items() if FAMILIES[name].integral}
        if not options.cases:
            parser.error(f"--dtype is {options.dtype}, but none of the families has integer costs")
    return options


def _solvers(text: str) -> list[Solver]:
    try:
        return solvers_named(names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return the environment with the settings that bear on the figures."""
    return environment(threads=options.threads, repeats=options.repeats, limit_seconds=options.limit_seconds)


def run(options: argparse.Namespace) -> list[Record]:
    """Measure everything asked for; the JSON is brought up to date after each instance, so that a stop loses one."""
    settings = Settings(options.threads, options.repeats, options.limit_seconds, options.peers_dir, options.limit_gib)
    records: list[Record] = []
    total = sum(map(len, options.cases.values()))
    for family, sizes in options.cases.items():
        skip: set[str] = set()
        for n in sizes:
            label = f"[{len(records) + 1}/{total}] {family} n={n}"
            task = Task(family, n, options.dtype, options.seed)
            records.append(measure(task, options.solvers, settings, skip, lambda step, label=label: _say(label, step)))
            skip |= {outcome.solver for outcome in records[-1].outcomes if outcome.status in (OVER_LIMIT, SKIPPED)}
            if options.json is not None:
                write_records(options.json, options, records)
    _say("", "")
    return records


def _say(label: str, step: str) -> None:
    """Show progress: one line rewritten on a terminal, one line per instance in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{label} {step}", end="", file=sys.stderr, flush=True)
    elif step.startswith("making"):
        print(label, file=sys.stderr, flush=True)


def write_records(path: Path, options: argparse.Namespace, records: list[Record]) -> None:
    """Write the JSON that `report.read` and plot.py read."""
    content = {"format": FORMAT, "environment": about(options), "records": [asdict(record) for record in records]}
    write_json(path, content)


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
    if options.markdown is not None:
        options.markdown.write_text(markdown(records, about(options)))
    if options.plot is not None:
        from plot import draw

        draw(records, options.plot, caption(about(options), versions_of(records)))
    ours = [outcome for record in records for outcome in record.outcomes if outcome.package == OURS]
    return int(any(outcome.status in (WRONG, FAILED) for outcome in ours))


if __name__ == "__main__":
    sys.exit(main())
