"""Model patching: two networks trained on disjoint, biased halves of the data, and what merging them gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_fast._arrays import Parameters
from rebasin_fast.interpolate import interpolate
from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured, TrainedCase
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.measure import NAIVE, WEIGHTS, compared, pair_of
from rebasin_fast.reproduce.recipes import Part
from rebasin_fast.reproduce.report import Beside, Summary, Table
from rebasin_fast.reproduce.scales import LAMBDAS, mlp_recipe

BINS = 15
COLUMNS = ("network", "data", "model", "train loss", "train accuracy", "test loss", "test accuracy", "test ECE")
_COLORS = {
    "A": "#333333",
    "B": "#7f7f7f",
    "ensemble": "#e08a2e",
    "naive average": drawing.COLORS[NAIVE],
    "merged": drawing.COLORS[WEIGHTS],
}


@dataclass(frozen=True)
class SplitCase(TrainedCase):
    """Two networks, each of which sees few examples of half of the classes."""

    lambdas: int


def _measure(lab: Lab, case: SplitCase) -> dict[str, Any]:
    pair = pair_of(lab, case.recipe, parts=(Part("labels", 0), Part("labels", 1)))
    matched = pair.aligned(WEIGHTS)
    named: dict[str, list[Parameters]] = {
        "A": [pair.a],
        "B": [pair.b],
        "ensemble": [pair.a, pair.b],
        "naive average": [interpolate(pair.a, pair.b, 0.5)],
        "merged": [interpolate(pair.a, matched, 0.5)],
    }
    batches = {split: lab.batches(case.recipe, split) for split in ("train", "test")}
    return {
        "models": compared(pair.model, named, batches, BINS),
        "naive": pair.curve(pair.b, batches["test"], case.lambdas),
        "matched": pair.curve(matched, batches["test"], case.lambdas),
    }


def _summarise(measured: Measured[SplitCase]) -> Summary:
    rows, beside = [], []
    for case, found in measured:
        models = found["models"]
        for name, said in models.items():
            numbers = (said[split][what] for split in ("train", "test") for what in ("loss", "accuracy"))
            rows.append((str(case.recipe.network), case.recipe.dataset, name, *numbers, said["test"]["ece"]))
        loss, ece = ({name: said["test"][what] for name, said in models.items()} for what in ("loss", "ece"))
        best = min(loss["A"], loss["B"])
        beside += [
            Beside(
                f"test loss of merged / better parent, {case.recipe}",
                f"{loss['merged']:.4g} / {best:.4g}: " + ("lower" if loss["merged"] < best else "not lower"),
                "lower than both parents",
            ),
            Beside(
                f"test ECE of merged / ensemble, {case.recipe}",
                f"{ece['merged']:.3g} / {ece['ensemble']:.3g}",
                "on par",
            ),
        ]
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "A sees 20 % of the examples of the lower half of the classes and 80 % of the upper half, B the others; "
            "train loss and accuracy are over both halves.",
            "The paper: ResNet20 at 32 times the width on CIFAR-100, split likewise; figures without a table.",
            "ECE: expected calibration error over 15 bins.",
        ),
    )


def _draw(measured: Measured[SplitCase]) -> Any:
    figure, axes = drawing.grid(len(measured), 2, width=4.2)
    for row, (case, found) in enumerate(measured):
        way, diagram = axes[row]
        for name, color in (("naive", _COLORS["naive average"]), ("matched", _COLORS["merged"])):
            way.plot(found[name]["lambda"], found[name]["loss"], color=color, label=name)
        ensemble = found["models"]["ensemble"]["test"]["loss"]
        way.axhline(ensemble, color=_COLORS["ensemble"], lw=1.2, ls=(0, (4, 2)), label="ensemble")
        drawing.from_a_to_b(way)
        drawing.label(way, str(case.recipe), y="test loss")
        drawing.legend(way)
        drawing.reliability(diagram, [(name, found["models"][name]["test"], color) for name, color in _COLORS.items()])
        drawing.label(diagram, "reliability, test data\n(bins of 10 or more)", "confidence", "accuracy")
        drawing.legend(diagram, beside=True)
    return figure


def _cases(scale: str) -> tuple[SplitCase, ...]:
    return tuple(SplitCase(mlp_recipe(scale, name), LAMBDAS[scale]) for name in ("mnist", "fashion_mnist"))


SPLIT_DATA = Experiment(
    name="split-data",
    title="Two networks trained on disjoint, biased halves of the data",
    cases={scale: _cases(scale) for scale in LAMBDAS},
    measure=_measure,
    summarise=_summarise,
    draw=_draw,
)
