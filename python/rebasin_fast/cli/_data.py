"""Examples to run models on: IDX files, arrays of numpy, safetensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rebasin_fast._extras import require
from rebasin_fast._files import check_regular

if TYPE_CHECKING:
    from rebasin_fast.cli._architecture import Network

INPUTS, LABELS = ("inputs", "x", "images", "input_ids"), ("labels", "y", "targets")
"""Names of arrays in a file, the first that is there counts."""

NO_TARGET = -100
"""What cross_entropy does not count: the last token has none after it."""

_HELD_OUT = 0.2


@dataclass(frozen=True)
class Examples:
    """What models are run on.

    Attributes
    ----------
    inputs : Tensor
        First axis: examples.
    labels : Tensor or None
        Class indices, tokens, or numbers (regression).
    """

    inputs: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int) -> list[tuple[Any, ...]]:
        """Return batches of inputs, with labels where there are any."""
        if self.labels is None:
            return [(part,) for part in self.inputs.split(size)]
        return list(zip(self.inputs.split(size), self.labels.split(size), strict=True))

    def split(self) -> tuple[Examples, Examples]:
        """Return most of the examples, and those held out."""
        out = max(1, round(_HELD_OUT * len(self)))
        if out >= len(self):
            raise ValueError(f"--data gives {len(self)} example; expected at least two, as one in five is held out")
        labels = (None, None) if self.labels is None else (self.labels[:-out], self.labels[-out:])
        return Examples(self.inputs[:-out], labels[0]), Examples(self.inputs[-out:], labels[1])


def read_examples(path: Path, split: str, most: int, seed: int, network: Network) -> Examples:
    """Return examples as a network takes them, at most so many, drawn at random.

    Parameters
    ----------
    path : Path
        A folder of IDX files (its images become (N, 1, H, W), from 0 to 1), or a .npz or .safetensors file with an
        array called inputs, and perhaps one called labels. Token ids without labels get the next token as label.
    split : "train" or "test"
        The part of IDX files.
    most : int
        How many.
    seed : int
        Of the draw.
    network : Network
        Inputs are brought to the shape of its example, where the number of features allows.

    Raises
    ------
    OSError, TypeError, ValueError
        A file that is missing, broken or no such file; shapes or dtypes that do not fit.
    """
    torch = require("torch", "torch")
    inputs, labels = _from_idx(path, split) if path.is_dir() else _from_file(path)
    if inputs.ndim < 2 or not len(inputs):
        raise ValueError(f"--data: {path} has inputs of shape {tuple(inputs.shape)}; expected (examples, ...)")
    if labels is not None and (labels.ndim < 1 or len(labels) != len(inputs)):
        raise ValueError(f"--data: {path} has {len(inputs)} inputs, and labels of shape {tuple(labels.shape)}")
    if inputs.dtype == torch.float64 or inputs.dtype == torch.float16 or inputs.dtype == torch.bfloat16:
        inputs = inputs.float()
    if not (inputs.dtype == torch.float32 or inputs.dtype == torch.int64):
        raise TypeError(
            f"--data: {path} has inputs of dtype {inputs.dtype}; expected floating-point numbers, or int64 for tokens"
        )
    if labels is not None and not labels.is_floating_point():
        labels = labels.long()
    if labels is None and inputs.dtype == torch.int64 and inputs.ndim == 2:
        labels = torch.nn.functional.pad(inputs[:, 1:], (0, 1), value=NO_TARGET)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(inputs))[:most])
    return Examples(_fitting(inputs[order], network, path), None if labels is None else labels[order])


def loss_of(outputs: Any, targets: Any) -> Any:
    """Return the mean loss: cross-entropy of class logits, also of (N, T, C) with (N, T); of numbers the squared error.

    Tokens without a target do not count, so that batches of sequences are to be of one length.
    """
    torch = require("torch", "torch")
    functional = torch.nn.functional
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"the model returned a {type(outputs).__name__}; expected a tensor of logits")
    if targets.is_floating_point():
        return functional.mse_loss(outputs.float(), targets.float().reshape(outputs.shape))
    classes = outputs.float().reshape(-1, outputs.shape[-1])
    return functional.cross_entropy(classes, targets.reshape(-1), ignore_index=NO_TARGET)


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Turn what torch raises when a model does not take the data into a message that says so."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"the model cannot be run on --data {path}: {first}") from error


def _from_idx(path: Path, split: str) -> tuple[Any, Any]:
    from rebasin_fast.datasets import load_idx_dataset

    here = [folder for folder in (path, path / "raw") if folder.is_dir() and any(folder.glob("t10k*"))]
    if not here:
        raise FileNotFoundError(f"--data: {path} holds no IDX files (train-images-idx3-ubyte and so on)")
    found = load_idx_dataset(here[0], "mnist")
    x, y = (found.train_x, found.train_y) if split == "train" else (found.test_x, found.test_y)
    side = math.isqrt(x.shape[1])
    return (x.view(-1, 1, side, side) if side**2 == x.shape[1] else x), y


def _from_file(path: Path) -> tuple[Any, Any]:
    torch = require("torch", "torch")
    try:
        check_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"--data: {path} does not exist") from None
    if path.suffix.lower() == ".safetensors":
        from rebasin_fast._safetensors import MappedFile

        arrays = dict(MappedFile(path))
    elif path.suffix.lower() == ".npz":
        arrays = _from_npz(path)
    else:
        raise ValueError(f"--data is {path}; expected a folder of IDX files, a .npz or a .safetensors file")
    inputs = next((arrays[name] for name in INPUTS if name in arrays), None)
    if inputs is None:
        raise ValueError(f"--data: {path} holds {', '.join(arrays) or 'nothing'}; expected an array called inputs")
    labels = next((arrays[name] for name in LABELS if name in arrays), None)
    try:
        return torch.as_tensor(inputs), None if labels is None else torch.as_tensor(labels)
    except TypeError as error:  # strings, dates, long doubles
        raise TypeError(f"--data: {path} holds what torch takes for no numbers: {error}") from None


def _from_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:  # which numpy would leave open where the archive is broken
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: _native(archive[name]) for name in archive.files}
        except OSError:
            raise
        except Exception as error:  # zipfile's, zlib's and numpy's own kinds, which share nothing
            raise ValueError(f"--data: {path} cannot be read: {error}") from error


def _native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as torch takes it: without gaps, bytes in this machine's order."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _fitting(inputs: Any, network: Network, path: Path) -> Any:
    example: Any = network.inputs[0] if network.inputs else None
    if not hasattr(example, "shape"):
        return inputs
    came, wanted = tuple(inputs.shape[1:]), tuple(example.shape[1:])
    if came == wanted or math.prod(came) != math.prod(wanted):
        # Images may be of another size than the example's; of other channels they may not.
        if len(came) != len(wanted) or (len(came) == 3 and came[0] != wanted[0]):
            raise ValueError(f"--data: {path} has inputs of shape {came}; the model's example input has {wanted}")
        return inputs
    return inputs.reshape(-1, *wanted)
