"""The command line, ``rebasin-fast``: parse, call the library, show. Nothing is computed here.

Each command is a function ``_add_<name>(app)`` that registers itself; `_COMMANDS` lists them. typer and rich come with
the extra ``rebasin-fast[cli]`` and are imported when the command line is used, not when this module is.
"""

# No `from __future__ import annotations` here: typer reads the annotations of functions whose names are local.
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rebasin_fast._extras import require

if TYPE_CHECKING:
    from typer import Typer

    from rebasin_fast._progress import Progress
    from rebasin_fast.demo import DemoResult

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
"""Exit codes: an expected error, wrong usage (a missing extra included), Ctrl-C."""

_DEMO_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast demo

rebasin-fast demo --dataset mnist --data path/to/mnist --out mnist-demo

rebasin-fast demo --seed 3 --json --quiet > numbers.json
"""

_EXAMPLES = f"{_DEMO_EXAMPLES}\nrebasin-fast info\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all went well, 1 after an error, 2 after wrong usage, 130 after Ctrl-C.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Raises
    ------
    SystemExit
        Always, with the exit code.
    """
    # Read when torch is loaded. Its threads spin while they wait by default, and on cores that something else uses too,
    # they then wait for each other: training took 4 times as long with 3 busy processes on 2 cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        for module in ("typer", "rich"):
            require(module, "cli")
    except ImportError as error:
        _complain(str(error))
        sys.exit(_USAGE)
    try:
        build_app()(args=None if arguments is None else list(arguments), prog_name="rebasin-fast")
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(_INTERRUPTED)


def build_app() -> "Typer":
    """Return the typer application with all commands.

    Raises
    ------
    ImportError
        Without typer.
    """
    app: Typer = require("typer", "cli").Typer(
        name="rebasin-fast",
        help="Match and merge neural networks modulo permutation symmetries (Git Re-Basin).",
        epilog=_EXAMPLES,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def _group() -> None:
        """Make typer expect the name of a command, however few there are."""

    for add in _COMMANDS:
        add(app)
    return app


def _add_demo(app: "Typer") -> None:
    from typer import Option

    @app.command(epilog=_DEMO_EXAMPLES)
    def demo(
        out: Annotated[Path, Option(help="Folder for figure, merged model and numbers.")] = Path("demo-output"),
        dataset: Annotated[str, Option(help="digits (bundled with scikit-learn), mnist or fashion_mnist.")] = "digits",
        data: Annotated[Path | None, Option(help="Folder with the IDX files of mnist or fashion_mnist.")] = None,
        seed: Annotated[int, Option(min=0, help="Same seed, same networks.")] = 0,
        width: Annotated[int | None, Option(min=1, help="Units in each of the three hidden layers.")] = None,
        epochs: Annotated[int | None, Option(min=1, help="Passes over the training data.")] = None,
        force: Annotated[bool, Option("--force", help="Replace files of an earlier demo.")] = False,
        as_json: Annotated[bool, Option("--json", help="Print the numbers as JSON instead of tables.")] = False,
        quiet: Annotated[bool, Option("--quiet", help="No progress bars.")] = False,
    ) -> None:
        """Train two networks apart, match and merge them, and show what that does to the loss barrier.

        Writes barrier.png, merged.safetensors and demo.json: all three, or none.
        """
        with _expected_errors():
            result = _demo(out, dataset, data, seed, {"width": width, "epochs": epochs}, force, quiet)
            if as_json:
                print(json.dumps(result.numbers(), indent=2, allow_nan=False))
            else:
                _show_demo(result)


def _add_info(app: "Typer") -> None:
    @app.command()
    def info() -> None:
        """Show versions, and how the extension was built."""
        with _expected_errors():
            _show_info()


_COMMANDS: "tuple[Callable[[Typer], None], ...]" = (_add_demo, _add_info)


def _demo(
    out: Path, name: str, data: Path | None, seed: int, given: dict[str, int | None], force: bool, quiet: bool
) -> "DemoResult":
    from rebasin_fast.datasets import load_dataset
    from rebasin_fast.demo import default_settings, run_demo

    settings = replace(default_settings(name), **{key: value for key, value in given.items() if value is not None})
    dataset = load_dataset(name, data, seed=seed)
    with _progress_bars(quiet) as progress:
        return run_demo(dataset=dataset, out_dir=out, seed=seed, settings=settings, overwrite=force, progress=progress)


def _show_demo(result: "DemoResult") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in (_points_table(result), _barrier_table(result), _seconds_table(result)):
        console.print(table)
        console.print()
    for path in (result.figure, result.model, result.report):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _points_table(result: "DemoResult") -> Any:
    from rebasin_fast.demo import POINTS, SPLITS

    headings = [f"{split} {what}" for split in SPLITS for what in ("loss", "accuracy")]
    table = _table(f"Two networks and their midpoint, {result.dataset}", "", *headings)
    for name in POINTS:
        cells = []
        for split in SPLITS:
            loss, accuracy = result.point(name, split)
            cells += [f"{loss:.4f}", f"{100 * accuracy:.2f} %"]
        table.add_row(name, *cells, style="bold" if name == POINTS[-1] else None)
    return table


def _barrier_table(result: "DemoResult") -> Any:
    from rebasin_fast.demo import SPLITS

    table = _table("Loss barrier, before and after matching", "", "naive", "matched", "reduction")
    for split in SPLITS:
        naive, matched = result.naive[split], result.matched[split]
        examples = f"{split}, {naive.count:,} examples"
        table.add_row(
            examples, f"{naive.barrier:.4f}", f"{matched.barrier:.4f}", f"{100 * result.reduction(split):.1f} %"
        )
    return table


def _seconds_table(result: "DemoResult") -> Any:
    table = _table("Seconds", *result.seconds, "in all")
    table.add_row(*(f"{seconds:.2f}" for seconds in (*result.seconds.values(), sum(result.seconds.values()))))
    return table


def _table(title: str, *headings: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    return table


def _show_info() -> None:
    import rebasin_fast

    rows = {
        "rebasin-fast": _version("rebasin-fast"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "CPUs": str(os.cpu_count()),
        "numpy": _version("numpy"),
        "torch": _version("torch"),
    }
    build_info = getattr(rebasin_fast, "build_info", None)
    if build_info is not None:
        rows |= {f"build: {key}": str(value) for key, value in dict(build_info()).items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@contextmanager
def _progress_bars(quiet: bool) -> "Iterator[Progress | None]":
    """Yield a progress callback that draws one bar per stage on stderr, or None."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bars = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            bars.start()  # not before there is something to show: an early error stays one line
            tasks[stage] = bars.add_task(stage)
        bars.update(tasks[stage], completed=done, total=total or None)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


@contextmanager
def _expected_errors() -> Iterator[None]:
    """Turn the errors a user can do something about into one line on stderr and an exit code."""
    from typer import Exit

    try:
        yield
    except KeyboardInterrupt:
        _complain("interrupted")
        raise Exit(_INTERRUPTED) from None
    except (OSError, ValueError, ImportError) as error:
        _complain(" ".join(str(error).split()) or type(error).__name__)
        raise Exit(_FAILED) from None


def _complain(message: str) -> None:
    print(f"rebasin-fast: {message}", file=sys.stderr)
