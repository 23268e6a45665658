"""What the benchmarks' command lines have in common: lists with commas, checked where they are read."""

from __future__ import annotations

import argparse
from pathlib import Path

from families import FAMILIES


def names(text: str) -> list[str]:
    """Parse ``"uniform, ties"``."""
    return [name for part in text.split(",") if (name := part.strip())]


def families(text: str) -> list[str]:
    """Parse names of families."""
    if unknown := [name for name in names(text) if name not in FAMILIES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected some of {', '.join(FAMILIES)}")
    return names(text)


def positive_int(text: str) -> int:
    """Parse ``"3"``."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return value


def positive_ints(text: str) -> list[int]:
    """Parse ``"512,2048"``; ascending, each once."""
    return sorted({positive_int(part) for part in names(text)})


def positive_number(text: str) -> float:
    """Parse ``"0.5"``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a positive number")
    return value


def output_file(text: str) -> Path:
    """Parse the path of a file to write, before hours go into what is to be written."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: its folder does not exist")
    return path


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json OUT``."""
    parser.add_argument("--json", type=output_file, metavar="OUT", help="write everything measured")


def add_json_folder(parser: argparse.ArgumentParser) -> None:
    """Add ``--json-folder DIR``, for scripts whose results are named after a device."""
    parser.add_argument(
        "--json-folder", type=output_file, metavar="DIR", help="the same, to a file named after device and date"
    )
