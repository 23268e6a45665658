"""Linear mode connectivity is an emergent property of training: the barrier against the epoch."""

from __future__ import annotations

from typing import Any

from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured
from rebasin_fast.reproduce.measure import BarrierCase, ends, naive_and_matched
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


def _summarise(measured: Measured[BarrierCase]) -> Summary:
    rows = [
        (
            str(case.recipe.network),
            case.recipe.dataset,
            case.epoch,
            found["naive"]["barrier"],
            found["matched"]["barrier"],
            ends(found["naive"], "loss"),
            ends(found["naive"], "accuracy"),
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
            "The paper: the barrier starts high and vanishes with training; a figure without a table.",
            "At epoch 0 both networks are random and all losses alike, so that there is no barrier to speak of.",
        ),
    )


def _draw(measured: Measured[BarrierCase]) -> Any:
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


def _cases(scale: str, lambdas: int) -> tuple[BarrierCase, ...]:
    recipes = [mlp_recipe(scale, name) for name in ("mnist", "fashion_mnist")]
    return tuple(
        BarrierCase(recipe, epoch, lambdas) for recipe in recipes for epoch in (*recipe.snapshots, recipe.epochs)
    )


EMERGENCE = Experiment(
    name="emergence",
    title="The barrier against the epoch of training",
    cases={"smoke": _cases("smoke", 3), "small": _cases("small", 5), "paper": _cases("paper", 25)},
    measure=naive_and_matched,
    summarise=_summarise,
    draw=_draw,
)
