"""The command line, ``rebasin-fast``: parse, call the library, show. Nothing is computed here.

Each command is a module with a function ``add_to(app)`` that registers it. typer and rich come with the extra
``rebasin-fast[cli]`` and are imported, with the commands, when the command line is used, not when this module is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from rebasin_fast._extras import require
from rebasin_fast.cli._common import INTERRUPTED, USAGE, complain

if TYPE_CHECKING:
    from typer import Typer

_COMMANDS = ("_demo", "_info", "_lap", "_spec", "_merging", "_reproduce")

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast demo

rebasin-fast merge a.safetensors b.safetensors --arch resnet20 -o merged.safetensors

rebasin-fast spec model.pt --arch mlp

rebasin-fast lap cost.npy --out assignment.npy

rebasin-fast reproduce lmc --data path/to/idx --out results

rebasin-fast info
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all went well, 1 or 2 after an error, 2 after wrong usage, 130 after Ctrl-C.

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
        complain(str(error))
        sys.exit(USAGE)
    try:
        build_app()(args=None if arguments is None else list(arguments), prog_name="rebasin-fast")
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)


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
