"""``rebasin-fast lap``."""

import io
import math
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from typer import Argument, Option, Typer

from rebasin_fast._cost_matrix import EXACT_DOUBLE, is_float64
from rebasin_fast._files import check_regular, told_as, whole_files
from rebasin_fast.cli._common import expected_errors, print_json
from rebasin_fast.cli._model_files import check_outputs
from rebasin_fast.cli._options import Force, Quiet

if TYPE_CHECKING:
    from rebasin_fast.lap import Assignment

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast lap cost.npy

rebasin-fast lap scores.csv --maximize --out assignment.csv

rebasin-fast lap matrices.npz --key cost --out assignment.npy --json
"""


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=_EXAMPLES)(lap)


def lap(
    cost: Annotated[Path, Argument(help="Cost matrix: .npy, .npz, or .csv of numbers without a heading.")],
    maximize: Annotated[bool, Option("--maximize", help="Maximise the sum instead.")] = False,
    out: Annotated[Path | None, Option(help="Write the pairs (row, column) to this .npy or .csv file.")] = None,
    key: Annotated[str | None, Option(help="Which array of an .npz file; not needed if there is one.")] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Annotated[bool, Option("--json", help="Print JSON, the pairs included.")] = False,
) -> None:
    """Solve a linear assignment problem exactly: print the cost, write the assignment.

    Integers stay integers. The file is written whole, or not at all.
    """
    with expected_errors():
        _check_out(cost, out, force)
        matrix = read_matrix(cost, key)
        answer, seconds = _solved(matrix, maximize)
        if out is not None:
            _write(answer, out, force)
        facts = _facts(answer, matrix, seconds)
        if as_json:
            pairs = {"row_ind": answer.row_ind.tolist(), "col_ind": answer.col_ind.tolist()}
            print_json(facts | pairs | {"out": None if out is None else str(out)})
            return
        for name, value in facts.items():
            print(f"{name:<9} {value}")
        if out is not None:
            print(f"wrote {out}")


def read_matrix(path: Path, key: str | None = None) -> npt.NDArray[Any]:
    """Return the matrix in a file; no pickle in it is ever executed."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        raise ValueError(f"{path} ends in {path.suffix!r}; expected .npy, .npz or .csv")
    if key is not None and suffix != ".npz":
        raise ValueError(f"--key is {key!r}, but {path} is no .npz file")
    check_regular(path)  # a missing file is an OSError of Python's, whatever the reader makes of it
    try:
        matrix = _from_csv(path) if suffix == ".csv" else _from_numpy(path, key)
    except OSError:
        raise
    except Exception as error:  # zipfile's, zlib's and numpy's own kinds, which share nothing
        raise ValueError(f"{path} cannot be read: {error}") from error
    if matrix.ndim != 2:
        raise ValueError(f"{path} holds an array of shape {matrix.shape}; expected a matrix, two axes")
    return matrix


def _from_numpy(path: Path, key: str | None) -> npt.NDArray[Any]:
    with path.open("rb") as file:  # which numpy would leave open where the archive is broken
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("it is neither an array nor an archive that numpy saved")  # numpy takes it for a pickle
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else _from_archive(loaded, key)


def _from_archive(archive: Any, key: str | None) -> npt.NDArray[Any]:
    names = list(archive.files)
    if key is None and len(names) == 1:
        key = names[0]
    if key not in names:
        wanted = "--key to say which" if key is None else f"one of them, not {key!r}"
        raise ValueError(f"it holds the arrays {', '.join(names) or '(none)'}; expected {wanted}")
    return np.asarray(archive[key])


def _from_csv(path: Path) -> npt.NDArray[Any]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.partition("#")[0].strip()]
    if not lines:
        raise ValueError("it is empty")
    cells = np.loadtxt(lines, dtype=str, delimiter=",", ndmin=2)
    with suppress(ValueError, OverflowError):
        return cells.astype(np.int64)
    matrix = _as_floats(cells)
    if (matrix >= 0).all():
        with suppress(ValueError, OverflowError):
            return cells.astype(np.uint64)
    _refuse_rounded(cells[np.abs(matrix) >= EXACT_DOUBLE])
    return matrix


def _as_floats(cells: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    try:
        return cells.astype(np.float64)
    except ValueError:
        (row, column), text = next(cell for cell in np.ndenumerate(cells) if not _is_number(cell[1]))
        raise ValueError(f"row {row + 1}, column {column + 1} is {str(text)!r}; expected a number") from None


def _refuse_rounded(texts: npt.NDArray[np.str_]) -> None:
    for text in texts:
        if re.fullmatch(r"[+-]?\d+", text.strip()) and not is_float64(int(text)):
            raise ValueError(f"it holds the integer {text}, which float64 would round; expected all in int64 or uint64")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_out(cost: Path, out: Path | None, force: bool) -> None:
    if out is None:
        return
    if out.suffix.lower() not in (".npy", ".csv"):
        raise ValueError(f"--out is {str(out)!r}; expected a name that ends in .npy or .csv")
    check_outputs([out], [cost], force=force)


def _solved(matrix: npt.NDArray[Any], maximize: bool) -> "tuple[Assignment, float]":
    from rebasin_fast.lap import solve_assignment

    start = time.perf_counter()
    answer = solve_assignment(matrix, maximize)
    return answer, time.perf_counter() - start


def _write(answer: "Assignment", out: Path, force: bool) -> None:
    pairs = np.stack([answer.row_ind, answer.col_ind], axis=1)
    with whole_files([out], overwrite=force) as (temporary,), told_as(out):
        if out.suffix.lower() == ".npy":
            content = io.BytesIO()  # into a file numpy writes by C's stdio, and does not hear of a full disk
            np.save(content, pairs)
            temporary.write_bytes(content.getbuffer())
        else:
            np.savetxt(temporary, pairs, fmt="%d", delimiter=",", header="row,column", comments="")


def _facts(answer: "Assignment", matrix: npt.NDArray[Any], seconds: float) -> dict[str, Any]:
    """Return what is shown; JSON has no infinity, so a sum beyond float64 is given as text."""
    return {
        "cost": answer.cost if isinstance(answer.cost, int) or math.isfinite(answer.cost) else str(answer.cost),
        "gap": answer.gap if math.isfinite(answer.gap) else str(answer.gap),
        "maximize": answer.maximize,
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
        "dtype": str(matrix.dtype),
        "method": answer.stats.method,
        "seconds": round(seconds, 6),
    }
