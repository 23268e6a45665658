"""Pairs of networks: the ways to align B to A, and what lies between A and the aligned B."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rebasin_fast._arrays import Parameters
from rebasin_fast.activation_matching import activation_matching
from rebasin_fast.batch_norm import repair, reset_batch_norm
from rebasin_fast.calibration import Predictions, ensemble, reliability_diagram
from rebasin_fast.evaluate import barrier, evaluate
from rebasin_fast.interpolate import interpolate
from rebasin_fast.permute import apply_permutation
from rebasin_fast.prove import few_examples, require_proof
from rebasin_fast.reproduce.experiment import TrainedCase
from rebasin_fast.reproduce.lab import Batches, Lab
from rebasin_fast.reproduce.recipes import ALL, Part, Recipe
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.straight_through import straight_through
from rebasin_fast.weight_matcher import Init
from rebasin_fast.weight_matching import WeightMatching, weight_matching

if TYPE_CHECKING:
    import torch

Curve = dict[str, Any]
"""``lambda``, ``loss`` and ``accuracy`` as lists, and ``barrier``: a `BarrierResult` as JSON has it."""

_STATISTICS = 2_000
"""Examples from which running statistics of merged networks are taken."""

NAIVE, WEIGHTS, ACTIVATIONS, LEARNED = "naive", "weight matching", "activation matching", "straight-through"
"""The ways from A to B: as it is, or permuted by one of the paper's three methods."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two trained networks of one recipe.

    Attributes
    ----------
    lab : Lab
    recipe : Recipe
    spec : PermutationSpec
        Proven on the first network.
    model : torch.nn.Module
        The architecture.
    a, b : dict of str to Tensor
    """

    lab: Lab
    recipe: Recipe
    spec: PermutationSpec
    model: torch.nn.Module
    a: Parameters
    b: Parameters

    def match(self, init: Init | None = None) -> WeightMatching:
        """Return the permutation that weight matching finds, by default from where it starts for everybody."""
        return weight_matching(self.spec, self.a, self.b, init=init, seed=self.lab.seed)

    def aligned(self, way: str, *, epochs: int = 1) -> Parameters:
        """Return B permuted in one of the ways above.

        Activation matching sees the recipe's training data. The straight-through estimator learns from two thirds of
        them, `epochs` times, and chooses by the others.
        """
        if way == NAIVE:
            return self.b
        if way == WEIGHTS:
            permutation = self.match().permutation
        elif way == ACTIVATIONS:
            batches = self.lab.batches(self.recipe, "train")
            permutation = activation_matching(self.spec, self.model, self.a, self.b, batches).permutation
        else:
            learn, choose = self.lab.held_out(self.recipe)
            permutation = straight_through(
                self.spec,
                self.model,
                self.a,
                self.b,
                learn,
                epochs=epochs,
                validation=choose,
                seed=self.lab.seed,
                progress=self.lab.progress,
            ).permutation
        return apply_permutation(self.spec, permutation, self.b)

    def curve(self, b: Parameters, batches: Batches, lambdas: int) -> Curve:
        """Return loss and accuracy on the straight way from A to `b`, on the batches.

        Batch norms of merged networks get their running statistics anew, on the recipe's training data: those of A and
        B say nothing of what passes in between (Jordan et al. 2023).
        """
        if self.recipe.network.norm == "batch_norm":
            statistics = self.lab.batches(self.recipe, "train", at_most=_STATISTICS)
            return self._corrected_curve(
                b, batches, lambdas, lambda merged, _: reset_batch_norm(self.model, merged, statistics)
            )
        found = barrier(self.model, self.a, b, batches, lambdas=lambdas)
        return _as_curve(found.lambdas, found.loss, found.accuracy)

    def repaired_curve(self, b: Parameters, batches: Batches, statistics: Batches, lambdas: int) -> Curve:
        """Return the same where every merged network is repaired (REPAIR, Jordan et al. 2023) on other batches."""

        def repaired(merged: Parameters, lam: float) -> Parameters:
            return repair(self.spec, self.model, merged, [self.a, b], statistics, weights=[1.0 - lam, lam])

        return self._corrected_curve(b, batches, lambdas, repaired)

    def _corrected_curve(
        self, b: Parameters, batches: Batches, lambdas: int, correct: Callable[[Parameters, float], Parameters]
    ) -> Curve:
        """Return the curve on which every network but the ends is corrected, given its position."""
        positions = np.linspace(0.0, 1.0, lambdas)
        points = []
        for lam in positions.tolist():
            ends = {0.0: self.a, 1.0: b}
            merged = ends[lam] if lam in ends else correct(interpolate(self.a, b, lam), lam)
            points.append(evaluate(self.model, merged, batches))
        return _as_curve(positions, [point.loss for point in points], [point.accuracy for point in points])


def notes_on(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """Return what a reader of curves between networks of these recipes has to know."""
    if not any(recipe.network.norm == "batch_norm" for recipe in recipes):
        return ()
    return (
        "Batch norm stands in the place of the paper's layer norm where the network says so; the running statistics of "
        f"every network between A and B are taken anew on {_STATISTICS} training examples then (Jordan et al. 2023).",
    )


def pair_of(lab: Lab, recipe: Recipe, *, parts: tuple[Part, Part] = (ALL, ALL), epoch: int | None = None) -> Pair:
    """Return members 1 and 2 of a recipe, trained on parts of its data, after an epoch."""
    a, b = (lab.trained(recipe, member, part=part, epoch=epoch) for member, part in zip((1, 2), parts, strict=True))
    spec, model = lab.spec(recipe), lab.model(recipe)
    require_proof(spec, model, a, few_examples(lab.batches(recipe, "test")[0][0]))
    return Pair(lab, recipe, spec, model, a, b)


@dataclass(frozen=True)
class BarrierCase(TrainedCase):
    """Two networks after an epoch of their training, and so many positions between them."""

    epoch: int
    lambdas: int


def naive_and_matched(lab: Lab, case: BarrierCase) -> dict[str, Curve]:
    """Return the curves on the test data from A to B, as it is ("naive") and matched on weights ("matched")."""
    pair, batches = pair_of(lab, case.recipe, epoch=case.epoch), lab.batches(case.recipe, "test")
    return {
        "naive": pair.curve(pair.b, batches, case.lambdas),
        "matched": pair.curve(pair.aligned(WEIGHTS), batches, case.lambdas),
    }


def said(predictions: Predictions, bins: int) -> dict[str, Any]:
    """Return loss, accuracy, expected calibration error and reliability diagram of predictions, for JSON."""
    diagram = reliability_diagram(predictions.probabilities, predictions.targets, bins=bins)
    return {
        "loss": predictions.loss,
        "accuracy": predictions.accuracy,
        "ece": diagram.error,
        "edges": diagram.edges.tolist(),
        "count": diagram.count.tolist(),
        "bin_confidence": _without_nan(diagram.confidence),
        "bin_accuracy": _without_nan(diagram.accuracy),
    }


def compared(
    model: torch.nn.Module,
    named: dict[str, list[Parameters]],
    batches: dict[str, Batches],
    bins: int,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return for each name, and each split of the data, what the ensemble of its networks says.

    Parameters
    ----------
    model : torch.nn.Module
    named : dict of str to list of state dicts
        A list of one is a network by itself.
    batches : dict of str to batches
    bins : int
        Of the reliability diagrams.
    report : callable, optional
        ``report(done, total)`` after each name.
    """
    measured: dict[str, dict[str, Any]] = {}
    for name, members in named.items():
        measured[name] = {split: said(ensemble(model, members, pairs), bins) for split, pairs in batches.items()}
        if report is not None:
            report(len(measured), len(named))
    return measured


def _as_curve(lambdas: Any, loss: Any, accuracy: Any) -> Curve:
    return {
        "lambda": [float(value) for value in lambdas],
        "loss": [float(value) for value in loss],
        "accuracy": [float(value) for value in accuracy],
        "barrier": float(max(loss) - (loss[0] + loss[-1]) / 2.0),
    }


def ends(curve: Curve, what: str) -> float:
    """Return the mean "loss" or "accuracy" of A and B."""
    return float(curve[what][0] + curve[what][-1]) / 2.0


def middle(curve: Curve, what: str) -> float:
    """Return "loss" or "accuracy" of a curve at the midpoint."""
    values: list[float] = curve[what]
    return values[len(values) // 2]


def _without_nan(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
