"""Small data sets in IDX files that a network can learn: a pattern for every class, and noise."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np


def idx_bytes(array: Any, code: int = 0x08) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx_dataset(
    folder: Path, *, train: int = 600, test: int = 200, side: int = 12, classes: int = 10, seed: int = 0
) -> None:
    """Write the four files; labels are sorted, as those of some sets are."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, side, side))
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.sort(np.arange(count) % classes)
        noise = rng.integers(0, 256, (count, side, side))
        images = (0.5 * patterns[labels] + 0.5 * noise).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), 1))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))
