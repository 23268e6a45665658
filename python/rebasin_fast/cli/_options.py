"""Options that several commands have. Imports typer: for the commands alone."""

import re
from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Argument, Option

Model: TypeAlias = Annotated[
    Path, Argument(help="Checkpoint: .safetensors, a torch file of tensors, or a Hugging Face folder of either.")
]
Models: TypeAlias = Annotated[list[Path], Argument(help="Two or more checkpoints of one architecture.")]
Key: TypeAlias = Annotated[str | None, Option(help="Entry of torch files that holds the parameters, as state_dict.")]
Force: TypeAlias = Annotated[bool, Option("--force", help="Replace files that exist already; inputs never are.")]
Quiet: TypeAlias = Annotated[bool, Option("--quiet", help="No progress bars, and no notes on stderr.")]
AsJson: TypeAlias = Annotated[bool, Option("--json", help="Print JSON for machines.")]
Seed: TypeAlias = Annotated[int, Option(min=0, help="Of everything random; same seed, same answer.")]

SpecFile: TypeAlias = Annotated[Path | None, Option("--spec", help="A file that `rebasin-fast spec --save` wrote.")]
Arch: TypeAlias = Annotated[
    str | None, Option(help="mlp, vgg16, resnet20 or resnet50; sizes come from the checkpoint.")
]
ModelClass: TypeAlias = Annotated[str | None, Option(help="package.module:Class of a torch model, which is traced.")]
Kwargs: TypeAlias = Annotated[str, Option(help="JSON object of arguments for the model class.")]
Config: TypeAlias = Annotated[
    Path | None, Option(help="config.json of transformers, traced; by default that in a checkpoint's folder.")
]
Inputs: TypeAlias = Annotated[
    list[str] | None,
    Option("--input", help="Shape of an example input, as 2,3,32,32 or 2,16:int64; once for each."),
]
Prove: TypeAlias = Annotated[
    bool, Option("--prove/--no-prove", help="Try first, where there is a model, that permutations change no output.")
]
MaxMemory: TypeAlias = Annotated[
    str,
    Option(help="Budget, as 512M or 2G: of pages of the files, kept cost matrices, and for the proof."),
]
Data: TypeAlias = Annotated[
    Path | None,
    Option(help="Folder of IDX files (MNIST and the like), or .npz or .safetensors with inputs and labels."),
]
Examples: TypeAlias = Annotated[int, Option(min=1, help="At most so many examples, drawn at random from --data.")]
BatchSize: TypeAlias = Annotated[int, Option(min=1, help="Examples in a batch.")]

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_bytes(text: str, option: str = "--max-memory") -> int:
    """Return the number of bytes that a text such as ``512M`` or ``1.5GiB`` means; K, M, G are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE)
    if found is None:
        raise ValueError(f"{option} is {text!r}; expected bytes, as in 512M or 2G")
    count = int(float(found[1]) * (1 << _UNITS[found[2].upper()]))
    if count < 1 << 20:
        raise ValueError(f"{option} is {text!r}; expected at least 1M")
    return count
