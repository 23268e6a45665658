"""``rebasin-fast match``, ``apply`` and ``merge``: checkpoints in, checkpoints out."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer

from rebasin_fast._residency import resident_within
from rebasin_fast.cli import _methods as methods
from rebasin_fast.cli import _model_files as files
from rebasin_fast.cli._architecture import Architecture, Network
from rebasin_fast.cli._checkpoints import open_checkpoint
from rebasin_fast.cli._common import expected_errors, print_json, progress_bars
from rebasin_fast.cli._options import (
    Arch,
    AsJson,
    BatchSize,
    Config,
    Data,
    Examples,
    Force,
    Inputs,
    Key,
    Kwargs,
    MaxMemory,
    Model,
    ModelClass,
    Models,
    Prove,
    Quiet,
    Seed,
    SpecFile,
    parse_bytes,
)
from rebasin_fast.cli._work import Plan, Work, left_out

_MATCH_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast match a.safetensors b.safetensors --arch resnet20 -o perm.safetensors

rebasin-fast match llama-a/ llama-b/ -o perm.safetensors

rebasin-fast match a.pt b.pt --arch mlp --method activation --data mnist/ -o perm.safetensors
"""

_APPLY_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast apply perm.safetensors b.safetensors -o b-aligned.safetensors

rebasin-fast apply perm.safetensors llama-b/ -o llama-b-aligned/
"""

_MERGE_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast merge a.safetensors b.safetensors --arch mlp -o merged.safetensors

rebasin-fast merge a.pt b.pt --key state_dict --spec spec.json --lambda 0.3 -o merged.pt

rebasin-fast merge 1.pt 2.pt 3.pt 4.pt --arch vgg16 -o merged.pt

rebasin-fast merge llama-a/ llama-b/ -o llama-merged/ --max-memory 4G

rebasin-fast merge a.pt b.pt --arch mlp --method ste --data mnist/ --repair -o merged.pt
"""

_Out = Annotated[Path, Option("--out", "-o", help="File or folder to write.")]
_Epochs = Annotated[int, Option(min=1, help="ste: passes over the data.")]
_PairMethod = Annotated[str, Option(help="weight; or on --data: activation, ste.")]


def add_to(app: Typer) -> None:
    """Register the commands."""
    app.command(epilog=_MATCH_EXAMPLES)(match)
    app.command(epilog=_APPLY_EXAMPLES)(apply)
    app.command(epilog=_MERGE_EXAMPLES)(merge)


def match(
    a: Model,
    b: Model,
    out: _Out,
    method: _PairMethod = "weight",
    data: Data = None,
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
    epochs: _Epochs = 4,
    prove: Prove = True,
    max_memory: MaxMemory = "2G",
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the permutation of B's hidden units that brings them closest to A's, and write it to a file."""
    with expected_errors():
        architecture = Architecture.given(a, spec_file, arch, model_class, kwargs, inputs, config)
        plan = Plan(architecture, method, data, examples, epochs, batch_size, prove, parse_bytes(max_memory))
        if out.suffix != ".safetensors":
            raise ValueError(f"--out is {str(out)!r}; expected a name that ends in .safetensors")
        plan.check([a, b])
        files.check_outputs([out], [a, b, *plan.read()], force=force)
        with Work([a, b], key, plan, seed, quiet) as work:
            made = work.record("match", {"method": method, "seed": seed} | plan.options())
            found = work.matched()
            files.write_permutation(
                found.permutations[1], work.network.spec, out, made | {"result": found.facts}, force=force
            )
        _tell(found.facts, made, out, as_json)


def apply(
    permutation: Annotated[Path, Argument(help="File that `rebasin-fast match` wrote.")],
    b: Model,
    out: _Out,
    key: Key = None,
    max_memory: MaxMemory = "2G",
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Reorder B's hidden units: the same function, aligned to the model that B was matched to."""
    with expected_errors():
        budget = parse_bytes(max_memory)
        files.check_model_output(out, b, [permutation, b], force=force)
        index, spec = files.read_permutation(permutation)
        checkpoint = open_checkpoint(b, key)
        with progress_bars(quiet) as progress, resident_within(budget, checkpoint.mapped):
            made = files.record("apply", [permutation, b], {}, progress) | left_out([checkpoint], quiet)
            spec.validate(checkpoint.params, str(b), matching=False)
            moved = methods.aligned(Network(spec), checkpoint, index, whole=files.model_kind(out, b) == "torch")
            files.write_model(moved, out, checkpoint, made, force=force)
        _tell({"units_moved": methods.units_moved(index)}, made, out, as_json)


def merge(
    models: Models,
    out: _Out,
    method: Annotated[
        str | None,
        Option(help="For two: weight; on --data: activation, ste. many: the mean of any number, all aligned."),
    ] = None,
    lam: Annotated[float, Option("--lambda", min=0.0, max=1.0, help="For two: 0 is the first, 1 the second.")] = 0.5,
    repair: Annotated[
        bool, Option("--repair", help="Take statistics of batch norm anew on --data, and repair the units' spread.")
    ] = False,
    data: Data = None,
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
    epochs: _Epochs = 4,
    prove: Prove = True,
    max_memory: MaxMemory = "2G",
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge models trained apart into one, modulo permutation of their hidden units.

    The method is "weight" for two models and "many" for more, unless named. Where there is a model to compute with, the
    specification is proven on the first checkpoint before anything is matched. Without --repair, running statistics of
    batch norm are averaged like everything else. Tensors of safetensors files are read, and written, one by one; many
    holds the sum of the models, and methods on data the models.
    """
    with expected_errors():
        architecture = Architecture.given(models[0], spec_file, arch, model_class, kwargs, inputs, config)
        method = _method(method, len(models), lam)
        plan = Plan(architecture, method, data, examples, epochs, batch_size, prove, parse_bytes(max_memory), repair)
        plan.check(models)
        files.check_model_output(out, models[0], [*models, *plan.read()], force=force)
        weighed = {"lambda": lam} if method in methods.PAIRWISE else {}
        with Work(models, key, plan, seed, quiet) as work:
            made = work.record("merge", {"method": method, "seed": seed} | weighed | plan.options())
            found = work.matched()
            merged = work.merged(found, lam, whole=files.model_kind(out, models[0]) == "torch")
            files.write_model(merged, out, work.checkpoints[0], made | {"result": found.facts}, force=force)
        _tell(found.facts, made, out, as_json)


def _method(method: str | None, count: int, lam: float) -> str:
    if count < 2:
        raise ValueError(f"{count} model is given; expected two or more")
    method = method or ("weight" if count == 2 else "many")
    if method not in methods.METHODS:
        raise ValueError(f"--method is {method!r}; expected one of {', '.join(methods.METHODS)}")
    if method in methods.PAIRWISE and count > 2:
        raise ValueError(f"--method {method} takes two models, and {count} are given; expected --method many")
    if method == "many" and lam != 0.5:
        raise ValueError(f"--lambda is {lam:g}, but --method many takes the mean; expected a method for two")
    return method


def _tell(facts: dict[str, Any], made: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(made | {"result": facts, "out": str(out)})
        return
    for name, value in facts.items():
        shown = f"{value[0]:.6g} -> {value[-1]:.6g}" if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):<13} {shown}")
    print(f"wrote {out}")
