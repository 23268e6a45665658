"""Wider models are better: the barrier against the width."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured
from rebasin_fast.reproduce.measure import BarrierCase, ends, naive_and_matched, notes_on
from rebasin_fast.reproduce.recipes import Recipe
from rebasin_fast.reproduce.report import Beside, Summary, Table, ratio
from rebasin_fast.reproduce.scales import mlp_recipe, resnet_recipe, vgg_recipe

COLUMNS = (
    "network",
    "data",
    "naive test barrier",
    "matched test barrier",
    "reduction",
    "mean test loss",
    "mean test accuracy",
)


def _by_kind(measured: Measured[BarrierCase]) -> dict[str, list[tuple[BarrierCase, dict[str, Any]]]]:
    kinds: dict[str, list[tuple[BarrierCase, dict[str, Any]]]] = {}
    for case, found in measured:
        kinds.setdefault(case.recipe.network.kind, []).append((case, found))
    return kinds


def _summarise(measured: Measured[BarrierCase]) -> Summary:
    rows = []
    for case, found in measured:
        naive, matched = found["naive"], found["matched"]
        heights = naive["barrier"], matched["barrier"]
        names = str(case.recipe.network), case.recipe.dataset
        rows.append((*names, *heights, ratio(heights[1], heights[0]), ends(naive, "loss"), ends(naive, "accuracy")))
    beside = []
    for cases in _by_kind(measured).values():
        (narrow, low), (wide, high) = cases[0], cases[-1]
        what = f"matched test barrier, {narrow.recipe.network} to {wide.recipe.network}"
        ours = f"{low['matched']['barrier']:.3g} to {high['matched']['barrier']:.3g}"
        beside.append(Beside(what, ours, "falls with the width, to about 0"))
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "The paper: VGG16 at 1/8 to 4 times and ResNet20 at 1 to 32 times the width on CIFAR-10 (layer norm, SGD), "
            "a figure without a table. Here Fashion-MNIST takes the place of CIFAR-10.",
            *notes_on(case.recipe for case, _ in measured),
        ),
    )


def _draw(measured: Measured[BarrierCase]) -> Any:
    kinds = _by_kind(measured)
    figure, axes = drawing.grid(1, len(kinds))
    for column, cases in enumerate(kinds.values()):
        widths = [case.recipe.network.width for case, _ in cases]
        for way, color in (("naive", drawing.COLORS["naive"]), ("matched", drawing.COLORS["weight matching"])):
            heights = [found[way]["barrier"] for _, found in cases]
            axes[0, column].plot(widths, heights, "o-", ms=4, color=color, label=way)
        recipe = cases[0][0].recipe
        name = "MLP, 3 layers" if recipe.network.kind == "mlp" else str(recipe.network).partition(",")[0]
        x = "units a layer" if recipe.network.kind == "mlp" else "multiplier of the width"
        drawing.label(axes[0, column], f"{name} on {recipe.dataset}", x, "" if column else "test barrier")
        axes[0, column].set_xscale("log", base=2)
        axes[0, column].set_xticks(widths, [str(Fraction(width)) for width in widths])
        axes[0, column].minorticks_off()
        axes[0, column].set_ylim(bottom=0.0)
    drawing.legend(axes[0, 0])
    return figure


def _of_widths(recipe: Recipe, widths: tuple[float, ...], lambdas: int) -> list[BarrierCase]:
    return [BarrierCase(recipe.of_width(width), recipe.epochs, lambdas) for width in widths]


WIDTH = Experiment(
    name="width",
    title="The barrier against the width",
    cases={
        "smoke": (
            *_of_widths(mlp_recipe("smoke", "mnist"), (8, 48), 3),
            *_of_widths(resnet_recipe("smoke"), (0.125, 0.25), 3),
            *_of_widths(vgg_recipe("smoke", 1), (0.0625, 0.125), 3),
        ),
        "small": (
            *_of_widths(replace(mlp_recipe("small", "mnist"), epochs=4), (32, 64, 128, 256, 512), 5),
            *_of_widths(resnet_recipe("small"), (0.25, 0.5, 1, 2), 5),
            *_of_widths(vgg_recipe("small", 1), (0.0625, 0.125, 0.25, 0.5), 5),
        ),
        "paper": (
            *_of_widths(mlp_recipe("paper", "mnist"), (32, 64, 128, 256, 512, 1024, 2048), 25),
            *_of_widths(resnet_recipe("paper"), (1, 2, 4, 8, 16, 32), 25),
            *_of_widths(vgg_recipe("paper", 1), (0.125, 0.25, 0.5, 1, 2, 4), 25),
        ),
    },
    measure=naive_and_matched,
    summarise=_summarise,
    draw=_draw,
)
