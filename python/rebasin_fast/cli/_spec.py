"""``rebasin-fast spec``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from rebasin_fast._files import told_as, whole_files
from rebasin_fast.cli import _proof
from rebasin_fast.cli._architecture import Architecture
from rebasin_fast.cli._checkpoints import open_checkpoint
from rebasin_fast.cli._common import FAILED, expected_errors, print_json, table
from rebasin_fast.cli._model_files import check_outputs
from rebasin_fast.cli._options import (
    Arch,
    AsJson,
    Config,
    Force,
    Inputs,
    Key,
    Kwargs,
    MaxMemory,
    ModelClass,
    Quiet,
    SpecFile,
    parse_bytes,
)

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast.prove import Proof
    from rebasin_fast.spec import PermutationSpec

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast spec model.safetensors --arch resnet20 --save spec.json

rebasin-fast spec --spec spec.json

rebasin-fast spec llama/ --prove

rebasin-fast spec --config config.json --save spec.json

rebasin-fast spec --model-class mypackage.models:Net --kwargs '{"width": 64}' --input 2,3,32,32 --prove
"""

_MEMBERS_SHOWN = 4


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=_EXAMPLES)(spec)


def spec(
    checkpoint: Annotated[Path | None, Argument(help="Checkpoint to read sizes off, and to check.")] = None,
    spec_file: SpecFile = None,
    arch: Arch = None,
    model_class: ModelClass = None,
    kwargs: Kwargs = "{}",
    inputs: Inputs = None,
    config: Config = None,
    key: Key = None,
    save: Annotated[Path | None, Option(help="Write the specification to this JSON file.")] = None,
    prove: Annotated[bool, Option("--prove", help="Permute the model at random, and compare its outputs.")] = False,
    max_memory: MaxMemory = "2G",
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show which units of a model can be reordered: its groups, and how many symmetries they make.

    With --prove on the parameters of the checkpoint, if one is given. Exit code 1 if the specification does not hold.
    """
    with expected_errors():
        architecture = Architecture.given(checkpoint, spec_file, arch, model_class, kwargs, inputs, config)
        budget = parse_bytes(max_memory)
        if save is not None:
            read = [path for path in (checkpoint, *architecture.read()) if path is not None]
            check_outputs([save], read, force=force)
        params = None if checkpoint is None else open_checkpoint(checkpoint, key).params
        network = architecture.resolve(params, str(checkpoint))
        found = network.spec
        if params is not None:
            found.validate(params, str(checkpoint), matching=False)
        proven = _proof.prove(network, params, budget) if prove else None
        if prove and proven is None:
            raise ValueError("--prove needs a model to compute with; expected --arch, --model-class or --config")
        if save is not None:
            with whole_files([save], overwrite=force) as (temporary,), told_as(save):
                found.save(temporary)
        facts = _facts(found, params, proven)
        if as_json:
            print_json(facts)
        else:
            _show(facts, proven, save)
    if proven is not None and not proven[0]:
        raise Exit(FAILED)


def _facts(spec: "PermutationSpec", params: "Parameters | None", proven: "tuple[Proof, str] | None") -> dict[str, Any]:
    from rebasin_fast.symmetries import count_symmetries

    sized = spec.sizes is not None or params is not None
    sizes = spec.group_sizes(params) if sized else {}
    groups = [
        {"name": name, "size": sizes.get(name), "blocks_of": spec.blocks.get(name), "members": list(map(str, members))}
        for name, members in spec.groups.items()
    ]
    return {
        "parameters": len(spec.axes),
        "groups": groups,
        "log10_symmetries": count_symmetries(spec, params) if sized else None,
        "log10_symmetries_paper": count_symmetries(spec, params, counting="paper") if sized else None,
        "proof": None if proven is None else _proof.as_record(*proven),
    }


def _show(facts: dict[str, Any], proven: "tuple[Proof, str] | None", save: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape

    shown = table(f"{len(facts['groups'])} groups, {facts['parameters']} parameters", "group", "size", "in", "members")
    for column in (0, 3):
        shown.columns[column].justify = "left"
    for group in facts["groups"]:
        members, more = group["members"][:_MEMBERS_SHOWN], len(group["members"]) - _MEMBERS_SHOWN
        text = ", ".join(members) + (f", and {more} more" if more > 0 else "")
        size, parent = group["size"], group["blocks_of"]
        cells = (group["name"], "?" if size is None else str(size), "" if parent is None else str(parent), text)
        shown.add_row(*map(escape, cells))
    console = Console(highlight=False)
    console.print(shown)
    if facts["log10_symmetries"] is None:
        print("symmetries: unknown without sizes; name a checkpoint")
    else:
        print(
            f"symmetries: 10^{facts['log10_symmetries']:.2f}; as the paper counts: 10^{facts['log10_symmetries_paper']}"
        )
    if proven is not None:
        print(f"{proven[0]}; on {proven[1]}")
    if save is not None:
        print(f"wrote {save}")
