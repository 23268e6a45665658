"""``rebasin-fast barrier``: loss and accuracy on the way from one checkpoint to another."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from rebasin_fast._extras import require
from rebasin_fast._files import told_as, whole_files
from rebasin_fast.cli import _methods as methods
from rebasin_fast.cli import _model_files as files
from rebasin_fast.cli._architecture import Architecture
from rebasin_fast.cli._checkpoints import open_checkpoint
from rebasin_fast.cli._common import expected_errors, print_json, progress_bars, table
from rebasin_fast.cli._options import (
    Arch,
    AsJson,
    BatchSize,
    Config,
    Examples,
    Force,
    Inputs,
    Key,
    Kwargs,
    MaxMemory,
    Model,
    ModelClass,
    Prove,
    Quiet,
    Seed,
    SpecFile,
    parse_bytes,
)
from rebasin_fast.cli._proof import require_proof

if TYPE_CHECKING:
    from rebasin_fast._progress import Progress
    from rebasin_fast.cli._architecture import Network
    from rebasin_fast.cli._checkpoints import Checkpoint
    from rebasin_fast.cli._data import Examples as ExamplesRead
    from rebasin_fast.evaluate import BarrierResult

_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast barrier a.pt b.pt --arch mlp --data mnist/

rebasin-fast barrier a.safetensors b.safetensors --arch resnet20 --data held-out.npz --match --figure barrier.png

rebasin-fast barrier a.pt b.pt --model-class mypackage.models:Net --input 2,3,32,32 --data test.npz --json
"""

_INTERPOLATIONS = ("lerp", "slerp")
_FIGURES = (".png", ".svg", ".pdf")


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=_EXAMPLES)(barrier)


def barrier(
    a: Model,
    b: Model,
    data: Annotated[
        Path, Option(help="Folder of IDX files (MNIST and the like), or .npz or .safetensors with inputs and labels.")
    ],
    match: Annotated[bool, Option("--match", help="Measure also the way to B matched to A by weights.")] = False,
    lambdas: Annotated[int, Option(min=2, help="Positions on the way, both ends included.")] = 25,
    interpolation: Annotated[str, Option(help="lerp, the straight line, or slerp.")] = "lerp",
    split: Annotated[str, Option(help="Part of IDX files: train or test.")] = "test",
    figure: Annotated[Path | None, Option(help="Draw the curves to this .png, .svg or .pdf.")] = None,
    spec_file: SpecFile = None,
    arch: Arch = None,
    model_class: ModelClass = None,
    kwargs: Kwargs = "{}",
    inputs: Inputs = None,
    config: Config = None,
    key: Key = None,
    seed: Seed = 0,
    examples: Examples = 10_000,
    batch_size: BatchSize = 500,
    prove: Prove = True,
    max_memory: MaxMemory = "2G",
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure loss and accuracy along the way from A to B, and the barrier between them.

    The barrier is the highest loss on the way above the mean of the two ends. Floating-point parameters are computed
    with in float32.
    """
    with expected_errors():
        architecture = Architecture.given(a, spec_file, arch, model_class, kwargs, inputs, config)
        _check(architecture, interpolation, split)
        budget = parse_bytes(max_memory)
        if figure is not None:
            if figure.suffix.lower() not in _FIGURES:
                raise ValueError(f"--figure is {str(figure)!r}; expected a name that ends in {', '.join(_FIGURES)}")
            beside = [data] if data.is_file() else []
            files.check_outputs([figure], [a, b, *beside, *architecture.read()], force=force)
            require("matplotlib.figure", "plot")
        with progress_bars(quiet) as bars:
            progress: Progress | None = bars
            checkpoints = open_checkpoint(a, key), open_checkpoint(b, key)
            network, read = _prepared(architecture, checkpoints, data, split, examples, seed)
            if match and prove:
                require_proof(network, checkpoints[0].params, budget)
            curves = _curves(
                network, checkpoints, read, match, (lambdas, interpolation, batch_size, seed), data, progress
            )
        if figure is not None:
            with whole_files([figure], overwrite=force) as (temporary,), told_as(figure):
                _drawn(curves, f"{a.name} to {b.name}, {len(read)} examples").savefig(temporary, dpi=200)
        if as_json:
            facts = {name: _facts(curve) for name, curve in curves.items()}
            print_json({"examples": len(read), "interpolation": interpolation, "curves": facts})
        else:
            _show(curves, figure)


def _check(architecture: Architecture, interpolation: str, split: str) -> None:
    if not any((architecture.arch, architecture.model_class, architecture.config)):
        raise ValueError("barrier runs the model; expected --arch, --model-class or --config beside --spec")
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(f"--interpolation is {interpolation!r}; expected one of {', '.join(_INTERPOLATIONS)}")
    if split not in ("train", "test"):
        raise ValueError(f"--split is {split!r}; expected train or test")


def _prepared(
    architecture: Architecture,
    checkpoints: "tuple[Checkpoint, Checkpoint]",
    data: Path,
    split: Any,
    most: int,
    seed: int,
) -> "tuple[Network, ExamplesRead]":
    from rebasin_fast.cli._data import read_examples
    from rebasin_fast.interpolate import check_same_layout

    a, b = checkpoints
    check_same_layout(a.params, b.params, (str(a.path), str(b.path)))
    network = architecture.resolve(a.params, str(a.path))
    network.spec.validate(a.params, str(a.path), matching=False)
    read = read_examples(data, split, most, seed, network)
    if read.labels is None:
        raise ValueError(f"--data: {data} has no labels; expected an array called labels")
    return network, read


def _curves(
    network: "Network",
    checkpoints: "tuple[Checkpoint, Checkpoint]",
    read: "ExamplesRead",
    match: bool,
    settings: tuple[int, Any, int, int],
    data: Path,
    progress: "Progress | None",
) -> "dict[str, BarrierResult]":
    """Return the curve to B as it is, and, if asked for, to B matched."""
    from rebasin_fast.cli._data import loss_of, running
    from rebasin_fast.evaluate import barrier as measure

    lambdas, interpolation, batch_size, seed = settings
    first, second = checkpoints
    ends = {"as they are": second.params}
    if match:
        matched = methods.match_pair(
            "weight", network, first.params, second.params, None, methods.Settings(seed), progress
        )
        ends["matched"] = methods.aligned(network, second, matched.permutations[1])
    a, batches = methods.computable(network, first.params), read.batches(batch_size)
    curves = {}
    for name, params in ends.items():

        def named(_: str, done: int, total: int, stage: str = f"barrier, {name}") -> None:
            if progress is not None:
                progress(stage, done, total)

        with running(data):
            curves[name] = measure(
                network.computing,
                a,
                methods.computable(network, params),
                batches,
                lambdas=lambdas,
                method=interpolation,
                loss=loss_of,
                progress=named,
            )
    return curves


def _facts(curve: "BarrierResult") -> dict[str, Any]:
    return {
        "barrier": _plain(curve.barrier),
        "lambda": curve.lambdas.tolist(),
        "loss": [_plain(value) for value in curve.loss.tolist()],
        "accuracy": [_plain(value) for value in curve.accuracy.tolist()],
    }


def _plain(value: float) -> float | None:
    """Return a number for JSON, which has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _show(curves: "dict[str, BarrierResult]", figure: Path | None) -> None:
    from rich.console import Console

    headings = [f"{what}, {name}" for name in curves for what in ("loss", "accuracy")]
    first = next(iter(curves.values()))
    shown = table(f"From A to B, {first.count:,} examples", "lambda", *headings)
    for number, position in enumerate(first.lambdas):
        cells = []
        for curve in curves.values():
            accuracy = float(curve.accuracy[number])
            cells += [f"{curve.loss[number]:.4f}", f"{100 * accuracy:.2f} %" if math.isfinite(accuracy) else "-"]
        shown.add_row(f"{position:.3g}", *cells)
    Console(highlight=False).print(shown)
    for name, curve in curves.items():
        print(f"barrier, {name:<12} {curve.barrier:.6g}")
    if figure is not None:
        print(f"wrote {figure}")


def _drawn(curves: "dict[str, BarrierResult]", title: str) -> Any:
    """Draw loss and, where there is one, accuracy."""
    from rebasin_fast.reproduce import drawing

    accurate = all(math.isfinite(float(value)) for curve in curves.values() for value in curve.accuracy)
    drawn, ((*panels,),) = drawing.grid(1, 2 if accurate else 1, width=4.5, height=4.0)
    for name, color in zip(curves, (drawing.COLORS["naive"], drawing.COLORS["weight matching"]), strict=False):
        curve = curves[name]
        panels[0].plot(curve.lambdas, curve.loss, color=color, lw=2, label=f"{name}: barrier {curve.barrier:.3g}")
        if accurate:
            panels[1].plot(curve.lambdas, 100 * curve.accuracy, color=color, lw=2)
    for panel, what in zip(panels, ("loss", "accuracy in %"), strict=False):
        drawing.label(panel, y=what)
        drawing.from_a_to_b(panel)
    drawing.legend_below(drawn, panels[0])
    drawn.suptitle(title, fontsize=11)
    return drawn
