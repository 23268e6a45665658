"""The rules, a file per family of operators; importing this enters all of them."""

from . import (
    contraction,
    creation,
    elementwise,
    indexing,
    joining,
    linear_algebra,
    normalization,
    pooling,
    recurrent,
    reduction,
    transforms,
    views,
)

__all__ = [
    "contraction",
    "creation",
    "elementwise",
    "indexing",
    "joining",
    "linear_algebra",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "transforms",
    "views",
]
