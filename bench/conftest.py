"""Options of the pytest-benchmark suite: ``pytest bench --sizes 512,2048 --families uniform,int100``."""

from __future__ import annotations

import pytest

from families import DTYPES, FAMILIES
from peers import solvers_named


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("assignment benchmarks")
    group.addoption("--sizes", default="512,1024", help="comma separated n (default: 512,1024)")
    group.addoption("--families", default=",".join(FAMILIES), help="comma separated (default: all)")
    group.addoption("--lap-solvers", default="rebasin_fast,scipy", help="solvers (default: rebasin_fast,scipy)")
    group.addoption("--lap-dtype", default="float32", choices=DTYPES)
    group.addoption("--lap-threads", default=1, type=int, help="threads of our solver (default: 1)")
    group.addoption("--lap-seed", default=0, type=int)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread tests over the families, sizes and solvers asked for."""
    option = metafunc.config.getoption
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", _known_families(option("--families").split(",")))
    if "n" in metafunc.fixturenames:
        metafunc.parametrize("n", _known_sizes(option("--sizes").split(",")))
    if "solver" in metafunc.fixturenames:
        try:
            solvers = solvers_named(option("--lap-solvers").split(","))
        except ValueError as error:
            raise pytest.UsageError(f"--lap-solvers: {error}") from None
        metafunc.parametrize("solver", solvers, ids=lambda solver: solver.name)


def _known_families(names: list[str]) -> list[str]:
    if unknown := [name for name in names if name not in FAMILIES]:
        raise pytest.UsageError(f"--families: unknown {', '.join(unknown)}; expected some of {', '.join(FAMILIES)}")
    return names


def _known_sizes(texts: list[str]) -> list[int]:
    if bad := [text for text in texts if not text.isdecimal() or int(text) < 1]:
        raise pytest.UsageError(f"--sizes: {', '.join(bad)}; expected positive whole numbers")
    return [int(text) for text in texts]
