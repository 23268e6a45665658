"""The command line, ``rebasin-fast``: parse, call the library, show. Nothing is computed here.

Each command is a module with a function ``add_to(app)`` that registers it. typer and rich come with the extra
``rebasin-fast[cli]`` and are imported, with the commands, when the command line is used, not when this module is.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

from rebasin_fast._extras import require
from rebasin_fast.cli._common import FAILED, INTERRUPTED, TERMINATED, USAGE, Told, complain, listening, print_json

if TYPE_CHECKING:
    from typer import Typer

_COMMANDS = ("_demo", "_info", "_lap", "_bench", "_spec", "_merging", "_barrier", "_reproduce")

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast demo

rebasin-fast merge a.safetensors b.safetensors --arch resnet20 -o merged.safetensors

rebasin-fast merge llama-a/ llama-b/ -o llama-merged/

rebasin-fast barrier a.pt b.pt --arch mlp --data mnist/ --match

rebasin-fast spec model.pt --arch mlp

rebasin-fast lap cost.npy --out assignment.npy

rebasin-fast reproduce lmc --data path/to/idx --out results

rebasin-fast info
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    With 0 if all went well, 2 if something given is wrong, 1 if a check failed, 130 after Ctrl-C, 143 after SIGTERM.

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
    given = sys.argv[1:] if arguments is None else list(arguments)
    _show_every_name()
    with listening() as told, _failure_as_json(_asks_for_json(given), told), _output_as_expected():
        _run(given)


def _run(arguments: list[str]) -> None:
    try:
        for module in ("typer", "rich"):
            require(module, "cli")
    except ImportError as error:
        complain(str(error))
        sys.exit(USAGE)
    try:
        with _termination_as_exit():
            build_app()(args=arguments, prog_name="rebasin-fast")
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)


def _asks_for_json(arguments: list[str]) -> bool:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


@contextmanager
def _failure_as_json(wanted: bool, told: Told) -> Iterator[None]:
    """Let a machine that asked for JSON get some when a command fails, too."""
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else FAILED
        if wanted and code not in (0, None) and not told.json:
            unforeseen = (
                "wrong usage, see standard error"
                if isinstance(error, SystemExit)
                else f"{type(error).__name__}: {error}"
            )
            with suppress(OSError):  # nobody listens any more
                print_json({"error": told.complaints[-1] if told.complaints else unforeseen, "exit_code": code})
                sys.stdout.flush()
        raise


def _show_every_name() -> None:
    """Let what standard output has no letters for, in the name of a file, be shown as escapes, as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def _output_as_expected() -> Iterator[None]:
    """Write out what was printed before the exit code is settled: where it cannot be, the command has failed."""
    try:
        yield
    except SystemExit as error:
        try:
            if sys.stdout is not None:  # as it is where the parent has closed it
                sys.stdout.flush()
        except OSError as failure:
            _without_output()
            if error.code in (0, None):
                complain(f"standard output cannot be written: {failure.strerror or failure}")
                sys.exit(FAILED)
        raise


def _without_output() -> None:
    """Let Python not try once more to write when it ends, which would end in a traceback."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Let SIGTERM, which would end Python on the spot, unwind: half-written files are removed on the way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminated(*_: object) -> None:
        complain("terminated")
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def build_app() -> Typer:
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

    for name in _COMMANDS:
        import_module(f"{__name__}.{name}").add_to(app)
    return app
