"""The whole way on one page: train two networks, match them, merge them, and measure what that did to the barrier."""

from __future__ import annotations

import json
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rebasin_fast._arrays import Parameters
from rebasin_fast._extras import require
from rebasin_fast._files import check_writable, whole_files
from rebasin_fast._progress import Progress
from rebasin_fast.architectures import mlp
from rebasin_fast.datasets import Dataset, split_batches
from rebasin_fast.evaluate import BarrierResult, barrier
from rebasin_fast.interpolate import interpolate
from rebasin_fast.permute import apply_permutation
from rebasin_fast.prove import few_examples, require_proof
from rebasin_fast.training import check_training_settings, make_mlp, train
from rebasin_fast.weight_matching import WeightMatching, weight_matching

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "test")
"""The parts of the data on which the demo measures."""

POINTS = ("model A", "model B", "midpoint, naive", "midpoint, matched")
"""The parameter sets the demo compares: naive is the way to B as trained, matched the way to B permuted to match A."""

_FIGURE, _MODEL, _REPORT = "barrier.png", "merged.safetensors", "demo.json"
_MOST_TRAINING_EXAMPLES = 10_000
"""Curves on the training part use so many of its examples at most, drawn at random: enough for three digits."""


@dataclass(frozen=True)
class DemoSettings:
    """What is trained, how, and how finely the way between the two is sampled.

    Attributes
    ----------
    width, hidden_layers : int
        Units in a hidden layer, and how many of these there are.
    epochs, batch_size : int
    lr, weight_decay : float
        As in `rebasin_fast.training.train`.
    lambdas : int
        Positions from A to B, both ends included; odd, so that the midpoint is one of them.

    Raises
    ------
    TypeError, ValueError
        A setting of the wrong type or out of its range.
    """

    width: int = 512
    hidden_layers: int = 3
    epochs: int = 20
    batch_size: int = 100
    lr: float = 2e-3
    weight_decay: float = 0.0
    lambdas: int = 25

    def __post_init__(self) -> None:
        check_training_settings(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, weight_decay=self.weight_decay, seed=0
        )
        for name, count, least in (("width", self.width, 1), ("hidden_layers", self.hidden_layers, 1)):
            if operator.index(count) < least:
                raise ValueError(f"{name} is {count}; expected {least} or more")
        if operator.index(self.lambdas) < 3 or self.lambdas % 2 == 0:
            raise ValueError(f"lambdas is {self.lambdas}; expected an odd number, 3 or more")


def default_settings(dataset: str) -> DemoSettings:
    """Return the settings at which the demo on `dataset` is quick and its networks are well trained.

    The digits take seconds; sets of MNIST's size take minutes on two cores.
    """
    return DemoSettings() if dataset == "digits" else DemoSettings(epochs=5, batch_size=250, lr=1e-3)


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo did and measured.

    Attributes
    ----------
    dataset : str
    seed : int
    settings : DemoSettings
    naive, matched : dict of str to BarrierResult
        The way from A to B, and from A to B permuted to match A, on the data in `SPLITS`.
    matching : WeightMatching
    seconds : dict of str to float
        Wall-clock time of each stage.
    figure, model, report : Path
        The files written: PNG, safetensors, JSON.
    """

    dataset: str
    seed: int
    settings: DemoSettings
    naive: dict[str, BarrierResult]
    matched: dict[str, BarrierResult]
    matching: WeightMatching
    seconds: dict[str, float]
    figure: Path
    model: Path
    report: Path

    def point(self, name: str, split: str) -> tuple[float, float]:
        """Return loss and accuracy of one of `POINTS` on one of `SPLITS`."""
        curve = self.matched[split] if name == "midpoint, matched" else self.naive[split]
        index = {"model A": 0, "model B": -1}.get(name, len(curve.lambdas) // 2)
        return float(curve.loss[index]), float(curve.accuracy[index])

    def reduction(self, split: str) -> float:
        """Return by which fraction of itself the barrier fell; NaN where there was none."""
        naive, matched = self.naive[split].barrier, self.matched[split].barrier
        return 1.0 - matched / naive if naive > 0.0 else math.nan

    def numbers(self) -> dict[str, Any]:
        """Return everything measured as plain numbers, lists and dicts, ready for JSON; NaN and infinity as None."""
        points = {
            name: {split: dict(zip(("loss", "accuracy"), self.point(name, split), strict=True)) for split in SPLITS}
            for name in POINTS
        }
        measured = {
            "dataset": self.dataset,
            "seed": self.seed,
            "settings": asdict(self.settings),
            "points": points,
            "barrier": {
                split: {
                    "naive": self.naive[split].barrier,
                    "matched": self.matched[split].barrier,
                    "reduction": self.reduction(split),
                    "examples": self.naive[split].count,
                }
                for split in SPLITS
            },
            "matching": {
                "sweeps": self.matching.sweeps,
                "converged": self.matching.converged,
                "objective": list(self.matching.objective),
            },
            "seconds": self.seconds,
            "curves": {
                f"{way} {split}": {
                    "lambda": curves[split].lambdas.tolist(),
                    "loss": curves[split].loss.tolist(),
                    "accuracy": curves[split].accuracy.tolist(),
                }
                for way, curves in (("naive", self.naive), ("matched", self.matched))
                for split in SPLITS
            },
        }
        plain: dict[str, Any] = _without_nan(measured)
        return plain


def run_demo(
    *,
    dataset: Dataset,
    out_dir: str | Path,
    seed: int = 0,
    settings: DemoSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DemoResult:
    """Train two MLPs on `dataset` apart, match and merge them, and write figure, merged model and numbers.

    The networks have different initial parameters and see the data in different orders. B is matched to A on weights
    alone; the merged model is the midpoint of A and the permuted B. Whatever comes out is reported.

    Parameters
    ----------
    dataset : Dataset
        See `rebasin_fast.datasets`.
    out_dir : path
        The folder for ``barrier.png``, ``merged.safetensors`` and ``demo.json``; created where missing. All three are
        written at the end, or none.
    seed : int, default 0
        Network A trains with seed 2 * `seed`, B with 2 * `seed` + 1.
    settings : DemoSettings, optional
        By default `default_settings` for the data set.
    overwrite : bool, default False
        Whether files of these names may be replaced.
    progress : callable, optional
        Called as ``progress(stage, done, total)``. Stages: "train A", "train B", "match",
        "barrier, naive", "barrier, matched"; each is announced with ``done`` and ``total`` 0.

    Returns
    -------
    DemoResult

    Raises
    ------
    OSError
        The files cannot be written: they exist, the folder is not writable (both found before the training starts),
        or the disk is full.
    TypeError, ValueError
        A setting out of its range, or a training that diverges.
    ImportError
        Without the extra ``rebasin-fast[demo]``; found before the training starts.

    Examples
    --------
    >>> import tempfile
    >>> from rebasin_fast.datasets import load_digits
    >>> small = DemoSettings(width=16, epochs=1, lambdas=3)
    >>> folder = tempfile.TemporaryDirectory()
    >>> result = run_demo(dataset=load_digits(), out_dir=folder.name, settings=small)
    >>> result.model.name, result.naive["test"].loss.shape
    ('merged.safetensors', (3,))
    >>> folder.cleanup()
    """
    settings = default_settings(dataset.name) if settings is None else settings
    check_training_settings(epochs=0, batch_size=1, lr=1.0, weight_decay=0.0, seed=seed)
    files = [Path(out_dir) / name for name in (_FIGURE, _MODEL, _REPORT)]
    check_writable(files, overwrite=overwrite)
    for module in ("matplotlib.figure", "safetensors.torch"):
        require(module, "demo")

    widths = (dataset.train_x.shape[1], *[settings.width] * settings.hidden_layers, dataset.num_classes)
    spec, clock, data = mlp(widths), _Clock(progress), _measured_on(dataset, seed)
    params_a, params_b = (
        _trained(f"train {name}", widths, dataset, settings, 2 * seed + index, clock) for index, name in enumerate("AB")
    )
    model = make_mlp(widths)
    require_proof(spec, model, params_a, few_examples(data["test"][0][0]))
    with clock.stage("match") as report:
        matching = weight_matching(spec, params_a, params_b, seed=seed, progress=report)
        matched_b = apply_permutation(spec, matching.permutation, params_b)
    with clock.stage("barrier, naive") as report:
        naive = _curves(model, params_a, params_b, data, settings.lambdas, report)
    with clock.stage("barrier, matched") as report:
        matched = _curves(model, params_a, matched_b, data, settings.lambdas, report)

    result = DemoResult(dataset.name, seed, settings, naive, matched, matching, clock.seconds, *files)
    _write(result, interpolate(params_a, matched_b, 0.5), overwrite)
    return result


def _trained(
    stage: str, widths: tuple[int, ...], dataset: Dataset, settings: DemoSettings, seed: int, clock: _Clock
) -> Parameters:
    with clock.stage(stage) as report:
        trained = train(
            lambda: make_mlp(widths),
            dataset,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            seed=seed,
            progress=report,
        )
    state: Parameters = trained.model.state_dict()
    return state


_Batches = list[tuple[Any, Any]]


def _measured_on(dataset: Dataset, seed: int) -> dict[str, _Batches]:
    """Return the batches of each split; of a large training part a random sample, as it may be sorted by class."""
    torch = require("torch", "torch")
    order = np.random.default_rng(seed).permutation(len(dataset.train_x))[:_MOST_TRAINING_EXAMPLES]
    sample = torch.from_numpy(order)
    return {
        "train": split_batches(dataset.train_x[sample], dataset.train_y[sample]),
        "test": split_batches(dataset.test_x, dataset.test_y),
    }


def _curves(
    model: torch.nn.Module,
    params_a: Parameters,
    params_b: Parameters,
    data: Mapping[str, _Batches],
    lambdas: int,
    progress: Progress | None,
) -> dict[str, BarrierResult]:
    def shifted(start: int) -> Progress | None:
        if progress is None:
            return None
        return lambda stage, done, _: progress(stage, start + done, lambdas * len(SPLITS))

    return {
        split: barrier(model, params_a, params_b, data[split], lambdas=lambdas, progress=shifted(index * lambdas))
        for index, split in enumerate(SPLITS)
    }


@dataclass
class _Clock:
    """Times the stages, and reports their progress under their own names."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress | None]:
        progress = self.progress
        if progress is not None:
            progress(name, 0, 0)
        start = time.perf_counter()
        yield None if progress is None else lambda _, done, total: progress(name, done, total)
        self.seconds[name] = time.perf_counter() - start


def _write(result: DemoResult, merged: Parameters, overwrite: bool) -> None:
    save = require("safetensors.torch", "demo").save
    with whole_files([result.figure, result.model, result.report], overwrite=overwrite) as (figure, model, report):
        plot_demo(result).savefig(figure, dpi=200)
        # Bytes first: a failure to write them is then an OSError like any other.
        model.write_bytes(save(dict(merged), metadata=_provenance(result)))
        report.write_text(json.dumps(result.numbers(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _provenance(result: DemoResult) -> dict[str, str]:
    """Return how the merged model was made, as the strings a safetensors header takes."""
    return {
        "format": "pt",
        "made_by": "rebasin_fast demo",
        "method": "weight matching (arXiv:2209.04836), then linear interpolation at lambda = 0.5",
        "dataset": result.dataset,
        "seeds": f"A {2 * result.seed}, B {2 * result.seed + 1}, matching {result.seed}",
        "settings": json.dumps(asdict(result.settings)),
        "test_loss": repr(result.point("midpoint, matched", "test")[0]),
        "test_accuracy": repr(result.point("midpoint, matched", "test")[1]),
    }


def _without_nan(value: Any) -> Any:
    """Return nested dicts and lists with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_STYLES = (("naive", "#c44e52"), ("matched", "#1f6fb4"))
_INK = "#333333"


def plot_demo(result: DemoResult) -> Any:
    """Draw loss and accuracy against lambda, naive and matched.

    Parameters
    ----------
    result : DemoResult

    Returns
    -------
    matplotlib.figure.Figure
        Made without pyplot: no global state, no window.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(9.0, 4.1), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    _draw(loss_axes, result, "cross-entropy loss", lambda curve: curve.loss)
    _draw(accuracy_axes, result, "accuracy in %", lambda curve: 100.0 * curve.accuracy)
    loss_axes.set_ylim(bottom=min(0.0, loss_axes.get_ylim()[0]))
    accuracy_axes.legend(frameon=False, loc="best")
    layers = f"{result.settings.hidden_layers} x {result.settings.width}"
    naive, matched = result.naive["test"].barrier, result.matched["test"].barrier
    figure.suptitle(
        f"Two MLPs ({layers}) trained apart on {result.dataset}: test barrier {naive:.3g}, matched {matched:.3g}",
        color=_INK,
        fontsize=11.5,
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    return figure


def _draw(axes: Any, result: DemoResult, label: str, values: Callable[[BarrierResult], Any]) -> None:
    for name, color in _STYLES:
        curves: dict[str, BarrierResult] = getattr(result, name)
        for split, line in (("train", (0, (4, 2))), ("test", "-")):
            curve = curves[split]
            wide = 2.2 if split == "test" else 1.3
            axes.plot(curve.lambdas, values(curve), color=color, ls=line, lw=wide, label=f"{name}, {split}")
    middle = len(result.matched["test"].lambdas) // 2
    merged = values(result.matched["test"])[middle]
    axes.plot([0.5], [merged], "o", ms=8, mfc="white", mec=_STYLES[1][1], mew=2, label="merged model", zorder=5)
    axes.set_xlabel(r"$\lambda$ in $(1-\lambda)\,\theta_A + \lambda\,\theta_B$;  matched: $\pi(\theta_B)$")
    axes.set_ylabel(label)
    axes.set_xlim(0.0, 1.0)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["A", "0.25", "0.5", "0.75", "B"])
    axes.grid(color="#e6e6e6", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
