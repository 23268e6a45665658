"""How many permutation symmetries the paper's networks have, in both ways of counting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rebasin_fast.architectures import mlp, resnet50, vgg16
from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Case, Experiment, Measured
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.report import Beside, Summary, Table
from rebasin_fast.reproduce.scales import SCALES
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.symmetries import count_symmetries

COLUMNS = ("network", "groups", "log10, as the paper counts", "log10 in the paper", "log10, exact")

_SPECS: dict[str, Callable[[], PermutationSpec]] = {
    "MLP 3 x 512": lambda: mlp((784, 512, 512, 512, 10)),
    "VGG16": lambda: vgg16(classifier_widths=(4096, 4096)),
    "ResNet50": resnet50,
}
_PAPER = {"MLP 3 x 512": 3498, "VGG16": 35160, "ResNet50": 55109}
_ATOMS = 82


@dataclass(frozen=True)
class SymmetriesCase(Case):
    """A network of the paper's, by name."""

    network: str


def _measure(_lab: Lab, case: SymmetriesCase) -> dict[str, Any]:
    spec = _SPECS[case.network]()
    return {
        "groups": len(spec.groups),
        "paper": count_symmetries(spec, counting="paper"),
        "exact": count_symmetries(spec),
    }


def _summarise(measured: Measured[SymmetriesCase]) -> Summary:
    rows = [
        (case.network, found["groups"], found["paper"], _PAPER[case.network], round(found["exact"], 1))
        for case, found in measured
    ]
    beside = [
        Beside(f"log10 of the number of symmetries, {case.network}", found["paper"], _PAPER[case.network])
        for case, found in measured
    ]
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "As the paper counts: floor(log10 n!) summed over the layers, residual connections ignored. "
            "Exact: log10 n! summed over the groups, in which residual connections tie layers together.",
            f"The universe is said to have 10^{_ATOMS} atoms.",
        ),
    )


def _draw(measured: Measured[SymmetriesCase]) -> Any:
    figure, axes = drawing.grid(1, 1, width=5.4, height=2.4)
    names = [case.network for case, _ in measured]
    for shift, what, color in ((0.2, "paper", "#7f7f7f"), (-0.2, "exact", drawing.COLORS["weight matching"])):
        heights = [found[what] for _, found in measured]
        places = [place + shift for place in range(len(names))]
        label = "as the paper counts" if what == "paper" else "exact"
        bars = axes[0, 0].barh(places, heights, height=0.38, color=color, label=label)
        axes[0, 0].bar_label(bars, fmt=" {:,.0f}", fontsize=8)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_xlim(right=64_000)
    drawing.label(axes[0, 0], f"log10 of the number of symmetries (atoms in the universe: {_ATOMS})")
    drawing.legend(axes[0, 0])
    return figure


SYMMETRIES = Experiment(
    name="symmetries",
    title="Numbers of permutation symmetries",
    cases={scale: tuple(SymmetriesCase(None, name) for name in _SPECS) for scale in SCALES},
    measure=_measure,
    summarise=_summarise,
    draw=_draw,
)
