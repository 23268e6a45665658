"""What the commands share: exit codes, errors as one line, progress bars, tables, options."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rebasin_fast._progress import Progress

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes: a check that failed, wrong usage or input (a missing extra included), Ctrl-C, SIGTERM."""


@dataclass
class Told:
    """What a command has told so far: its complaints, and whether it has printed JSON."""

    complaints: list[str] = field(default_factory=list)
    json: bool = False


_TOLD: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def listening() -> Iterator[Told]:
    """Yield what is told by `complain` and `print_json` as long as the block lasts."""
    told = Told()
    token = _TOLD.set(told)
    try:
        yield told
    finally:
        _TOLD.reset(token)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress | None]:
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
def expected_errors() -> Iterator[None]:
    """Turn the errors a user can do something about into one line on stderr and an exit code."""
    from typer import Exit

    try:
        yield
    except KeyboardInterrupt:
        complain("interrupted")
        raise Exit(INTERRUPTED) from None
    except BrokenPipeError:  # nobody reads standard output any more, as after `| head`: typer ends with 1, and silently
        raise
    except (OSError, ValueError, TypeError, OverflowError, ImportError, MemoryError) as error:
        complain(" ".join(str(error).split()) or type(error).__name__)
        raise Exit(USAGE) from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # torch's words; it has no error of its own for that on the CPU
            raise
        complain("out of memory")
        raise Exit(USAGE) from None


def table(title: str, *headings: str) -> Any:
    """Return an empty rich table: the first column, if it has no heading, for names, the others for numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    return table


def print_json(content: Any) -> None:
    """Print `content` as JSON for machines."""
    text = json.dumps(content, indent=2, allow_nan=False)
    if (told := _TOLD.get()) is not None:
        told.json = True
    print(text)


def note(message: str, quiet: bool) -> None:
    """Print one line on stderr about something that is no error."""
    if not quiet:
        print(f"note: {message}", file=sys.stderr)


def complain(message: str) -> None:
    """Print one line on stderr."""
    if (told := _TOLD.get()) is not None:
        told.complaints.append(message)
    print(f"rebasin-fast: {message}", file=sys.stderr)
