"""Which families are measured at which sizes when the command line does not say."""

from __future__ import annotations

from collections.abc import Sequence

from families import FAMILIES

Cases = dict[str, tuple[int, ...]]
"""Sizes by family."""


def _at(sizes: tuple[int, ...], *families: str) -> Cases:
    return dict.fromkeys(families, sizes)


# At n = 2048 wide4 and tall4 have as many entries as a square of 4096: they are for the large suite.
_QUICK = _at((512, 2048), *(name for name in FAMILIES if name not in ("wide4", "tall4")))

_LARGE = {
    **_at(
        (4096, 8192, 16384),
        *("uniform", "unrelated", "lowrank16", "lowrank64", "euclidean", "int10n", "planted64"),
    ),
    **_at((256, 512, 1024, 2048, 4096, 8192), "planted", "int100", "ties", "constant"),
    **_at((256, 512, 1024, 2048), "sorted", "blocks", "clusters", "lognormal", "cauchy"),
    **_at((2048,), "machol-wien"),
    **_at((1024, 4096), "wide4", "tall4"),
}

SUITES: dict[str, Cases] = {"quick": _QUICK, "large": _LARGE}


def cases(suite: str, families: Sequence[str] | None, sizes: Sequence[int] | None) -> Cases:
    """Return the suite's cases, its families and sizes replaced by those given.

    A family the suite does not have takes the sizes of its first one.
    """
    known = SUITES[suite]
    usual = next(iter(known.values()))
    return {name: tuple(sizes or known.get(name, usual)) for name in families or known}
