"""Linear mode connectivity: loss and accuracy along the way from A to B, as they are and matched by three methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured, TrainedCase
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.measure import ACTIVATIONS, LEARNED, NAIVE, WEIGHTS, ends, middle, notes_on, pair_of
from rebasin_fast.reproduce.report import Beside, Summary, Table
from rebasin_fast.reproduce.scales import lambdas_of, mlp_recipe, resnet_recipe, vgg_recipe

WAYS = (NAIVE, WEIGHTS, ACTIVATIONS, LEARNED)
COLUMNS = (
    "network",
    "data",
    "way",
    "train barrier",
    "test barrier",
    "midpoint test loss",
    "midpoint test accuracy",
    "mean test loss of A, B",
    "mean test accuracy of A, B",
)

_ABSENT = "not in the paper"
_PAPER = {
    ("mlp", "mnist"): "about 0",
    ("mlp", "fashion_mnist"): _ABSENT,
    ("resnet20", "fashion_mnist"): "about 0 on CIFAR-10, at 32 times the width",
    ("vgg16", "fashion_mnist"): "falls with the width, on CIFAR-10",
}


@dataclass(frozen=True)
class LmcCase(TrainedCase):
    """One way between two networks.

    `examples` is the number of training examples to measure on, `ste_epochs` that of the straight-through estimator.
    """

    way: str
    lambdas: int
    examples: int
    ste_epochs: int


def _measure(lab: Lab, case: LmcCase) -> dict[str, Any]:
    pair = pair_of(lab, case.recipe)
    b = pair.aligned(case.way, epochs=case.ste_epochs)
    return {
        "train": pair.curve(b, lab.batches(case.recipe, "train", at_most=case.examples), case.lambdas),
        "test": pair.curve(b, lab.batches(case.recipe, "test"), case.lambdas),
    }


def _summarise(measured: Measured[LmcCase]) -> Summary:
    rows, beside = [], []
    for case, found in measured:
        train, test = found["train"], found["test"]
        names = str(case.recipe.network), case.recipe.dataset, case.way
        numbers = [(middle(test, what), ends(test, what)) for what in ("loss", "accuracy")]
        (loss, loss_ends), (accuracy, accuracy_ends) = numbers
        rows.append((*names, train["barrier"], test["barrier"], loss, accuracy, loss_ends, accuracy_ends))
        paper = _PAPER[case.recipe.network.kind, case.recipe.dataset]
        if case.way == NAIVE and paper != _ABSENT:
            paper = "a barrier"
        beside.append(Beside(f"test barrier, {case.recipe}, {case.way}", test["barrier"], paper))
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "Barrier: the highest loss on the way minus the mean of the ends; on the training data it is measured on "
            f"{measured[0][0].examples} examples at most.",
            "The paper: MLP 3 x 512 on MNIST for 100 epochs, and ResNet20 at 32 times the width on CIFAR-10, which is "
            "not read here: Fashion-MNIST takes its place. Narrow networks are known to keep a barrier.",
            *notes_on(case.recipe for case, _ in measured),
        ),
    )


def _draw(measured: Measured[LmcCase]) -> Any:
    recipes = list(dict.fromkeys(case.recipe for case, _ in measured))
    figure, axes = drawing.grid(2, len(recipes), width=2.9, height=2.4)
    for column, recipe in enumerate(recipes):
        for case, found in measured:
            if case.recipe == recipe:
                for row, what in enumerate(("loss", "accuracy")):
                    curve = found["test"]
                    axes[row, column].plot(
                        curve["lambda"],
                        curve[what],
                        color=drawing.COLORS[case.way],
                        label=case.way,
                        **drawing.LINES[case.way],
                    )
        drawing.label(axes[0, column], f"{recipe.network}\n{recipe.dataset}", y="" if column else "test loss")
        drawing.label(axes[1, column], y="" if column else "test accuracy")
        for row in (0, 1):
            drawing.from_a_to_b(axes[row, column])
    drawing.legend_below(figure, axes[1, 0])
    return figure


def _cases(scale: str, recipes: tuple[Any, ...], examples: int, ste_epochs: int) -> tuple[LmcCase, ...]:
    return tuple(
        LmcCase(recipe, way, lambdas_of(scale, recipe.network), examples, ste_epochs)
        for recipe in recipes
        for way in WAYS
    )


def _recipes(scale: str, resnet: float, vgg: float) -> tuple[Any, ...]:
    mlps = (mlp_recipe(scale, "mnist"), mlp_recipe(scale, "fashion_mnist"))
    return (*mlps, resnet_recipe(scale, resnet), vgg_recipe(scale, vgg))


LMC = Experiment(
    name="lmc",
    title="Linear mode connectivity before and after matching",
    cases={
        "smoke": _cases("smoke", _recipes("smoke", 0.25, 0.125), 200, 1),
        "small": _cases("small", _recipes("small", 2, 0.5), 5_000, 4),
        "paper": _cases("paper", _recipes("paper", 32, 4), 30_000, 250),
    },
    measure=_measure,
    summarise=_summarise,
    draw=_draw,
)
