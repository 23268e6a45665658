"""MergeMany: five networks on all data, and many on random halves, each with its calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rebasin_fast.merge_many import merge_many
from rebasin_fast.reproduce import drawing
from rebasin_fast.reproduce.experiment import Experiment, Measured, TrainedCase
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.measure import compared
from rebasin_fast.reproduce.recipes import ALL, Part
from rebasin_fast.reproduce.report import Beside, Cell, Summary, Table, mean
from rebasin_fast.reproduce.scales import mlp_recipe

BINS = 10
MERGED, ENSEMBLE, AVERAGE = "MergeMany", "ensemble", "naive average"
COLUMNS = (
    "network",
    "data",
    "seen by each",
    "model",
    "train loss",
    "train accuracy",
    "test loss",
    "test accuracy",
    "test ECE",
)

PAPER = {
    "seed 1": (0.0, 1.0, 0.1153, 0.9856),
    "seed 2": (0.0, 1.0, 0.1531, 0.9854),
    "seed 3": (0.0, 1.0, 0.1229, 0.9855),
    "seed 4": (0.0, 1.0, 0.1108, 0.9865),
    "seed 5": (0.0, 1.0, 0.1443, 0.9871),
    MERGED: (0.0141, 0.9952, 0.0727, 0.9831),
}
"""The paper's table: train loss and accuracy, test loss and accuracy of five MLPs on MNIST and of their merge."""

_PAPER_COLUMNS = ("train loss", "train accuracy", "test loss", "test accuracy")


@dataclass(frozen=True)
class MergeCase(TrainedCase):
    """So many networks, each trained on all the data or on a random half of them.

    `examples` is the number of training examples to measure on; None stands for all.
    """

    count: int
    halves: bool
    examples: int | None


def _measure(lab: Lab, case: MergeCase) -> dict[str, Any]:
    members = [
        lab.trained(case.recipe, member, part=Part("half", member) if case.halves else ALL)
        for member in range(1, case.count + 1)
    ]
    spec, model = lab.spec(case.recipe), lab.model(case.recipe)
    batches = {
        "train": lab.batches(case.recipe, "train", at_most=case.examples),
        "test": lab.batches(case.recipe, "test"),
    }
    merged = merge_many(
        spec, members, seed=lab.seed, model=model, inputs=batches["test"][0][0][:8], progress=lab.progress
    )
    named = {f"seed {index}": [member] for index, member in enumerate(members, start=1)}
    average = {name: sum(member[name] for member in members) / len(members) for name in members[0]}
    named |= {AVERAGE: [average], MERGED: [merged.params], ENSEMBLE: members}
    measuring = lab.progress
    report = None if measuring is None else lambda done, total: measuring("measure", done, total)
    return {
        "models": compared(model, named, batches, BINS, report),
        "sweeps": merged.sweeps,
        "converged": merged.converged,
        "distance": list(merged.distance),
    }


def _seeds(models: dict[str, Any]) -> list[str]:
    return [name for name in models if name.startswith("seed ")]


def _numbers(said: dict[str, Any]) -> tuple[float, ...]:
    return (*(said[split][what] for split in ("train", "test") for what in ("loss", "accuracy")), said["test"]["ece"])


def _summarise(measured: Measured[MergeCase]) -> Summary:
    rows: list[tuple[Cell, ...]] = []
    beside: list[Beside] = []
    for case, found in measured:
        models = found["models"]
        names = str(case.recipe.network), case.recipe.dataset, "random half" if case.halves else "all"
        seeds = _seeds(models)
        if case.count <= 5:
            rows += [(*names, name, *_numbers(models[name])) for name in seeds]
        means = map(mean, zip(*(_numbers(models[name]) for name in seeds), strict=True))
        rows.append((*names, f"mean of {case.count}", *means))
        rows += [(*names, name, *_numbers(models[name])) for name in (AVERAGE, MERGED, ENSEMBLE)]
        beside += _beside(case, models)
    return Summary(
        Table(COLUMNS, tuple(rows)),
        tuple(beside),
        (
            "The paper trains for 100 epochs: its parents have a training loss of 0 and a test loss of 0.11 to 0.15. "
            "With fewer epochs the parents' test loss is lower, and there is less for the merge to win.",
            "The paper shows the calibration of 32 networks on random halves as a figure without numbers.",
            "ECE: expected calibration error over 10 bins.",
        ),
    )


def _beside(case: MergeCase, models: dict[str, Any]) -> list[Beside]:
    loss = {name: said["test"]["loss"] for name, said in models.items()}
    parents = [loss[name] for name in _seeds(models)]
    fall = f"{100 * (1.0 - loss[MERGED] / mean(parents)):.1f} %"
    where = f"{case.count} networks on {case.recipe.dataset}"
    if case.halves:
        ece = {name: said["test"]["ece"] for name, said in models.items()}
        return [
            Beside(f"test loss below the parents' mean, {where}, random halves", fall, "no number"),
            Beside(
                f"test ECE of MergeMany / mean parent / ensemble, {where}, random halves",
                f"{ece[MERGED]:.3g} / {mean([ece[name] for name in _seeds(models)]):.3g} / {ece[ENSEMBLE]:.3g}",
                "no number",
            ),
        ]
    rows = [Beside(f"test loss below the parents' mean, {where}", fall, "43 %")]
    for name, numbers in PAPER.items():
        ours = _numbers(models[name])
        rows += [
            Beside(f"{name}: {what}", mine, theirs)
            for what, mine, theirs in zip(_PAPER_COLUMNS, ours[:4], numbers, strict=True)
        ]
    return rows


def _draw(measured: Measured[MergeCase]) -> Any:
    figure, axes = drawing.grid(2, len(measured), width=3.6)
    for column, (case, found) in enumerate(measured):
        models = found["models"]
        bars, diagram = axes[:, column]
        parents = [models[name]["test"]["loss"] for name in _seeds(models)]
        bars.plot(range(1, len(parents) + 1), sorted(parents), "o", ms=3.5, color="#7f7f7f", label="parents, sorted")
        for name, color in ((MERGED, drawing.COLORS["weight matching"]), (ENSEMBLE, "#e08a2e")):
            bars.axhline(models[name]["test"]["loss"], color=color, lw=1.6, label=name)
        bars.set_ylim(bottom=0.0)
        seen = "random halves of " if case.halves else ""
        drawing.label(bars, f"{case.count} x {case.recipe.network}\n{seen}{case.recipe.dataset}", "parent", "test loss")
        drawing.legend(bars)
        shown = [("seed 1", "#7f7f7f"), (MERGED, drawing.COLORS["weight matching"]), (ENSEMBLE, "#e08a2e")]
        drawing.reliability(diagram, [(name, models[name]["test"], color) for name, color in shown])
        drawing.label(diagram, "reliability, test data (bins of 10 or more)", "confidence", "accuracy")
        drawing.legend(diagram)
    return figure


def _cases(scale: str, many: int, many_width: float, epochs: int) -> tuple[MergeCase, ...]:
    mnist = mlp_recipe(scale, "mnist")
    halves = replace(mnist.of_width(many_width), epochs=epochs, snapshots=())
    return MergeCase(mnist, 5, False, None), MergeCase(halves, many, True, 5_000)


MERGE_MANY = Experiment(
    name="merge-many",
    title="MergeMany: several networks merged into one",
    cases={
        "smoke": _cases("smoke", many=6, many_width=32, epochs=2),
        "small": _cases("small", many=32, many_width=256, epochs=3),
        "paper": _cases("paper", many=32, many_width=512, epochs=100),
    },
    measure=_measure,
    summarise=_summarise,
    draw=_draw,
)
