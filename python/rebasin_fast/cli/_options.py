"""Options that several commands have. Imports typer: for the commands alone."""

from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Option

Force: TypeAlias = Annotated[bool, Option("--force", help="Replace files that exist already; inputs never are.")]
Quiet: TypeAlias = Annotated[bool, Option("--quiet", help="No progress bars.")]
AsJson: TypeAlias = Annotated[bool, Option("--json", help="Print JSON for machines.")]

SpecFile: TypeAlias = Annotated[Path | None, Option("--spec", help="A file that `rebasin-fast spec --save` wrote.")]
Arch: TypeAlias = Annotated[
    str | None, Option(help="mlp, vgg16, resnet20 or resnet50; sizes come from the checkpoint.")
]
ModelClass: TypeAlias = Annotated[str | None, Option(help="package.module:Class of a torch model, which is traced.")]
Kwargs: TypeAlias = Annotated[str, Option(help="JSON object of arguments for the model class.")]
Inputs: TypeAlias = Annotated[
    list[str] | None,
    Option("--input", help="Shape of an example input, as 2,3,32,32 or 2,16:int64; once for each."),
]
