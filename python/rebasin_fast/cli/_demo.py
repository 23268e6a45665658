"""``rebasin-fast demo``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from rebasin_fast.cli._common import expected_errors, print_json, progress_bars, table

if TYPE_CHECKING:
    from rebasin_fast.demo import DemoResult

EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast demo

rebasin-fast demo --dataset mnist --data path/to/mnist --out mnist-demo

rebasin-fast demo --seed 3 --json --quiet > numbers.json
"""


def add_to(app: Typer) -> None:
    """Register the command."""
    app.command(epilog=EXAMPLES)(demo)


def demo(
    out: Annotated[Path, Option(help="Folder for figure, merged model and numbers.")] = Path("demo-output"),
    dataset: Annotated[str, Option(help="digits (bundled with scikit-learn), mnist or fashion_mnist.")] = "digits",
    data: Annotated[Path | None, Option(help="Folder with the IDX files of mnist or fashion_mnist.")] = None,
    seed: Annotated[int, Option(min=0, help="Same seed, same networks.")] = 0,
    width: Annotated[int | None, Option(min=1, help="Units in each of the three hidden layers.")] = None,
    epochs: Annotated[int | None, Option(min=1, help="Passes over the training data.")] = None,
    force: Annotated[bool, Option("--force", help="Replace files of an earlier demo.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the numbers as JSON instead of tables.")] = False,
    quiet: Annotated[bool, Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train two networks apart, match and merge them, and show what that does to the loss barrier.

    Writes barrier.png, merged.safetensors and demo.json: all three, or none.
    """
    with expected_errors():
        result = _demo(out, dataset, data, seed, {"width": width, "epochs": epochs}, force, quiet)
        if as_json:
            print_json(result.numbers())
        else:
            _show_demo(result)


def _demo(
    out: Path, name: str, data: Path | None, seed: int, given: dict[str, int | None], force: bool, quiet: bool
) -> "DemoResult":
    from rebasin_fast.datasets import load_dataset
    from rebasin_fast.demo import default_settings, run_demo

    settings = replace(default_settings(name), **{key: value for key, value in given.items() if value is not None})
    dataset = load_dataset(name, data, seed=seed)
    with progress_bars(quiet) as progress:
        return run_demo(dataset=dataset, out_dir=out, seed=seed, settings=settings, overwrite=force, progress=progress)


def _show_demo(result: "DemoResult") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for shown in (_points_table(result), _barrier_table(result), _seconds_table(result)):
        console.print(shown)
        console.print()
    for path in (result.figure, result.model, result.report):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _points_table(result: "DemoResult") -> Any:
    from rebasin_fast.demo import POINTS, SPLITS

    headings = [f"{split} {what}" for split in SPLITS for what in ("loss", "accuracy")]
    shown = table(f"Two networks and their midpoint, {result.dataset}", "", *headings)
    for name in POINTS:
        cells = []
        for split in SPLITS:
            loss, accuracy = result.point(name, split)
            cells += [f"{loss:.4f}", f"{100 * accuracy:.2f} %"]
        shown.add_row(name, *cells, style="bold" if name == POINTS[-1] else None)
    return shown


def _barrier_table(result: "DemoResult") -> Any:
    from rebasin_fast.demo import SPLITS

    shown = table("Loss barrier, before and after matching", "", "naive", "matched", "reduction")
    for split in SPLITS:
        naive, matched = result.naive[split], result.matched[split]
        examples = f"{split}, {naive.count:,} examples"
        shown.add_row(
            examples, f"{naive.barrier:.4f}", f"{matched.barrier:.4f}", f"{100 * result.reduction(split):.1f} %"
        )
    return shown


def _seconds_table(result: "DemoResult") -> Any:
    shown = table("Seconds", *result.seconds, "in all")
    shown.add_row(*(f"{seconds:.2f}" for seconds in (*result.seconds.values(), sum(result.seconds.values()))))
    return shown
