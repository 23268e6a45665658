"""``rebasin-fast reproduce``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from rebasin_fast.cli._common import expected_errors, print_json, progress_bars, table
from rebasin_fast.cli._options import AsJson, Quiet

if TYPE_CHECKING:
    from rebasin_fast.reproduce import Report, Table

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast reproduce symmetries --out results

rebasin-fast reproduce lmc --data path/to/idx --out results

rebasin-fast reproduce width --data path/to/idx --out results --scale paper --device cuda
"""


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=_EXAMPLES)(reproduce)


def reproduce(
    name: Annotated[str, Argument(help="lmc, emergence, width, split-data, merge-many, symmetries or beyond.")],
    out: Annotated[Path, Option(help="Folder for tables, figures, and what a later run takes up again.")],
    data: Annotated[Path | None, Option(help="Folder with the IDX files of mnist and fashion_mnist.")] = None,
    scale: Annotated[str, Option(help="smoke (seconds), small (minutes on two cores) or paper (a GPU).")] = "small",
    seed: Annotated[int, Option(min=0, help="Same seed, same numbers.")] = 0,
    device: Annotated[str, Option(help="Where torch trains: cpu, cuda, cuda:1, ...")] = "cpu",
    force: Annotated[bool, Option("--force", help="Replace table and figure of an earlier run.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce an experiment of the Git Re-Basin paper: a table, a figure, and its numbers beside the paper's.

    Writes NAME.csv, NAME.md, NAME.json, NAME.png and NAME.svg, all of them or none. Trained networks and measured cases
    stay in the folder as soon as they are finished, and once a minute the state of a training: the same command
    continues a run that was ended.
    """
    from rebasin_fast.reproduce import reproduce as run
    from rebasin_fast.reproduce.report import files_of

    with expected_errors():
        with progress_bars(quiet) as progress:
            report = run(
                name,
                data=data,
                out=out,
                scale=scale,
                seed=seed,
                device=device,
                overwrite=force,
                progress=progress,
            )
        if as_json:
            print_json(report.json())
        else:
            _show(report, files_of(name, out))


def _show(report: "Report", files: list[Path]) -> None:
    from rich.console import Console

    from rebasin_fast.reproduce.report import beside_table

    console = Console(highlight=False)
    console.print(_rich(report.title, report.summary.table))
    console.print()
    console.print(_rich("Beside the paper", beside_table(report.summary.beside)))
    console.print()
    for note in report.summary.notes:
        console.print(note, markup=False)
    for path in files:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _rich(title: str, content: "Table") -> Any:
    shown = table(title, *content.columns)
    for column, cells in zip(shown.columns, zip(*content.rows, strict=True), strict=True):
        column.justify = "left" if any(isinstance(cell, str) for cell in cells) else "right"
    for row in content.shown():
        shown.add_row(*row)
    return shown
