"""Linear mode connectivity is an emergent property of training: the barrier against the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_fast.permute import apply_permutation
from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured, TrainedCase
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.measure import pair_of
from rebasin_fast.reproduce.report import Beside, Summary, Table
from rebasin_fast.reproduce.scales import mlp_recipe

COLUMNS = (
    "network",
    "data",
    "epoch",
    "naive test barrier",
    "matched test barrier",
    "mean test loss",
    "mean test accuracy",
)


@dataclass(frozen=True)
class EmergenceCase(TrainedCase):
    """Two networks after an epoch of their training."""

    epoch: int
    lambdas: int


def _measure(lab: Lab, case: EmergenceCase) -> dict[str, Any]:
    pair, batches = pair_of(lab, case.recipe, epoch=case.epoch), lab.batches(case.recipe, "test")
    matched = apply_permutation(pair.spec, pair.match().permutation, pair.b)
    return {
        "naive": pair.curve(pair.b, batches, case.lambdas),
        "matched": pair.curve(matched, batches, case.lambdas),
    }


def _ends(found: dict[str, Any], what: str) -> float:
    return float(found["naive"][what][0] + found["naive"][what][-1]) / 2.0


def _summarise(measured: Measured[EmergenceCase]) -> Summary:
    rows = [
        (
            str(case.recipe.network),
            case.recipe.dataset,
            case.epoch,
            found["naive"]["barrier"],
            found["matched"]["barrier"],
            _ends(found, "loss"),
            _ends(found, "accuracy"),
        )
        for case, found in measured
    ]
    beside = []
    for case, found in measured:
        if case.epoch > 0:
            what = f"matched test barrier, {case.recipe}, epoch {case.epoch}"
            last = case.epoch == case.recipe.epochs
            beside.append(
                Beside(what, found["matched"]["barrier"], "about 0 after training" if last else "higher, falling")
            )
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "The paper shows the barrier on MNIST start high in the first epochs and vanish with training, and gives no "
            "table. At epoch 0 both networks are random and all losses alike, so that there is no barrier to speak of.",
        ),
    )


def _draw(measured: Measured[EmergenceCase]) -> Any:
    recipes = list(dict.fromkeys(case.recipe for case, _ in measured))
    figure, axes = drawing.grid(1, len(recipes))
    for column, recipe in enumerate(recipes):
        chosen = [(case.epoch, found) for case, found in measured if case.recipe == recipe]
        for way, color in (("naive", drawing.COLORS["naive"]), ("matched", drawing.COLORS["weight matching"])):
            epochs, heights = zip(*[(epoch, found[way]["barrier"]) for epoch, found in chosen], strict=True)
            axes[0, column].plot(epochs, heights, "o-", ms=4, color=color, label=way)
        drawing.label(axes[0, column], str(recipe), "epoch", "" if column else "test barrier")
    drawing.legend(axes[0, 0])
    return figure


def _cases(scale: str, lambdas: int) -> tuple[EmergenceCase, ...]:
    recipes = [mlp_recipe(scale, name) for name in ("mnist", "fashion_mnist")]
    return tuple(
        EmergenceCase(recipe, epoch, lambdas) for recipe in recipes for epoch in (*recipe.snapshots, recipe.epochs)
    )


EMERGENCE = Experiment(
    name="emergence",
    title="The barrier against the epoch of training",
    cases={"smoke": _cases("smoke", 3), "small": _cases("small", 5), "paper": _cases("paper", 25)},
    measure=_measure,
    summarise=_summarise,
    draw=_draw,
)
