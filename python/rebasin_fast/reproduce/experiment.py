"""What an experiment is: cases to measure, and how their numbers are summed up and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.recipes import Recipe
from rebasin_fast.reproduce.report import Summary


@dataclass(frozen=True)
class Case:
    """One thing to measure. All its attributes together say what; subclasses add theirs.

    Attributes
    ----------
    recipe : Recipe or None
        The networks it is about.
    """

    recipe: Recipe | None

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data it needs."""
        return () if self.recipe is None else (self.recipe.dataset,)


@dataclass(frozen=True)
class TrainedCase(Case):
    """A case about trained networks."""

    recipe: Recipe


C = TypeVar("C", bound=Case)

Measured = Sequence[tuple[C, dict[str, Any]]]
"""Cases in their order, each with its numbers."""


@dataclass(frozen=True)
class Experiment(Generic[C]):
    """One of the paper's experiments.

    Attributes
    ----------
    name, title : str
    cases : mapping of str to tuple of Case
        For every scale.
    measure : callable
        Lab and case to numbers that JSON can write. What it depends on is the case, the seed and the data alone.
    summarise : callable
        All cases with their numbers to tables.
    draw : callable
        The same to a matplotlib figure.
    """

    name: str
    title: str
    cases: Mapping[str, tuple[C, ...]]
    measure: Callable[[Lab, C], dict[str, Any]]
    summarise: Callable[[Measured[C]], Summary]
    draw: Callable[[Measured[C]], Any]
