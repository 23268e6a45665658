"""Beyond the paper: where matching starts, REPAIR, and what makes matching fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rebasin_fast.permute import apply_permutation
from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured, TrainedCase
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.measure import ends, pair_of
from rebasin_fast.reproduce.recipes import Recipe
from rebasin_fast.reproduce.report import Beside, Summary, Table
from rebasin_fast.reproduce.scales import mlp_recipe
from rebasin_fast.weight_matcher import Init

NAIVE, NAIVE_REPAIRED = "naive", "naive + REPAIR"
IDENTITY, PROPAGATE, DEFAULT = "identity start", "propagate start", "default start"
REPAIRED = "default start + REPAIR"
WAYS = (NAIVE, NAIVE_REPAIRED, IDENTITY, PROPAGATE, DEFAULT, REPAIRED)
_STARTS: dict[str, Init | None] = {IDENTITY: "identity", PROPAGATE: "propagate", DEFAULT: None}
COLUMNS = ("study", "setting", "data", "mean test accuracy", *(f"barrier, {way}" for way in WAYS), "objective gain")
_STYLES = {
    NAIVE: (drawing.COLORS["naive"], "o-"),
    NAIVE_REPAIRED: (drawing.COLORS["naive"], "s--"),
    IDENTITY: ("#e08a2e", "^:"),
    PROPAGATE: ("#3b9c6b", "v:"),
    DEFAULT: (drawing.COLORS["weight matching"], "o-"),
    REPAIRED: (drawing.COLORS["weight matching"], "s--"),
}


@dataclass(frozen=True)
class BeyondCase(TrainedCase):
    """Two networks, under one setting of one study.

    `statistics` is the number of training examples on which REPAIR takes its statistics.
    """

    study: str
    setting: float
    epoch: int
    lambdas: int
    statistics: int


def _measure(lab: Lab, case: BeyondCase) -> dict[str, Any]:
    pair = pair_of(lab, case.recipe, epoch=case.epoch)
    test = lab.batches(case.recipe, "test")
    statistics = lab.batches(case.recipe, "train", at_most=case.statistics)
    found = {start: pair.match(init) for start, init in _STARTS.items()}
    aligned = {start: apply_permutation(pair.spec, match.permutation, pair.b) for start, match in found.items()}
    return {
        NAIVE: pair.curve(pair.b, test, case.lambdas),
        NAIVE_REPAIRED: pair.repaired_curve(pair.b, test, statistics, case.lambdas),
        **{start: pair.curve(b, test, case.lambdas) for start, b in aligned.items()},
        REPAIRED: pair.repaired_curve(aligned[DEFAULT], test, statistics, case.lambdas),
        "objective": {start: match.objective[-1] for start, match in found.items()},
    }


def _gain(found: dict[str, Any]) -> float:
    return float(found["objective"][DEFAULT] / found["objective"][IDENTITY]) - 1.0


def _summarise(measured: Measured[BeyondCase]) -> Summary:
    rows = []
    for case, found in measured:
        accuracy = ends(found[NAIVE], "accuracy")
        heights = (found[way]["barrier"] for way in WAYS)
        rows.append((case.study, case.setting, case.recipe.dataset, accuracy, *heights, _gain(found)))
    beside = [
        Beside(
            f"matched test barrier, {study}: " + ", ".join(f"{case.setting:g}" for case, _ in cases),
            ", ".join(f"{found[DEFAULT]['barrier']:.3g}" for _, found in cases),
            {"width": "fails on narrow networks", "epoch": "fails early in training"}.get(
                study, "fails with wrong learning rates"
            ),
        )
        for study, cases in _by_study(measured).items()
    ]
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "The paper starts its descent from the identity; the default of this package, on trained networks, starts "
            "where some steps of Frank-Wolfe lead. Objective gain: the default's over the paper's, as a fraction.",
            "REPAIR (Jordan et al. 2023) came after the paper.",
            "All barriers are of the test loss.",
        ),
    )


def _by_study(measured: Measured[BeyondCase]) -> dict[str, list[tuple[BeyondCase, dict[str, Any]]]]:
    studies: dict[str, list[tuple[BeyondCase, dict[str, Any]]]] = {}
    for case, found in measured:
        studies.setdefault(case.study, []).append((case, found))
    return studies


def _draw(measured: Measured[BeyondCase]) -> Any:
    studies = _by_study(measured)
    figure, axes = drawing.grid(1, len(studies), height=3.0)
    for column, (study, cases) in enumerate(studies.items()):
        places = range(len(cases))
        for way in WAYS:
            color, style = _STYLES[way]
            heights = [found[way]["barrier"] for _, found in cases]
            axes[0, column].plot(places, heights, style, ms=4, lw=1.3, color=color, label=way)
        axes[0, column].set_xticks(places, [f"{case.setting:g}" for case, _ in cases])
        axes[0, column].set_yscale("symlog", linthresh=0.01)
        axes[0, column].set_ylim(bottom=0.0)
        drawing.label(
            axes[0, column], f"{study}, {cases[0][0].recipe.dataset}", study, "" if column else "test barrier"
        )
    drawing.legend(axes[0, 0])
    return figure


def _cases(
    scale: str, widths: tuple[float, ...], rates: tuple[float, ...], rate_epoch: int, lambdas: int, statistics: int
) -> tuple[BeyondCase, ...]:
    recipe = mlp_recipe(scale, "fashion_mnist")

    def case(study: str, setting: float, recipe: Recipe, epoch: int) -> BeyondCase:
        return BeyondCase(recipe, study, setting, epoch, lambdas, statistics)

    epochs = [*recipe.snapshots[1:], recipe.epochs]
    shorter = replace(recipe, epochs=rate_epoch, snapshots=())
    return (
        *(case("width", width, recipe.of_width(width), recipe.epochs) for width in widths),
        *(case("epoch", epoch, recipe, epoch) for epoch in epochs),
        *(case("learning rate", rate, replace(shorter, lr=rate), rate_epoch) for rate in rates),
    )


BEYOND = Experiment(
    name="beyond",
    title="Beyond the paper: the start, REPAIR, and when matching fails",
    cases={
        "smoke": _cases("smoke", (8, 48), (3e-3, 3e-2), 1, 3, 200),
        "small": _cases("small", (32, 128, 512), (1e-3, 1e-2), 4, 3, 2000),
        "paper": _cases("paper", (32, 64, 128, 256, 512, 1024), (1e-5, 1e-4, 1e-3, 1e-2), 100, 25, 10_000),
    },
    measure=_measure,
    summarise=_summarise,
    draw=_draw,
)
