"""``rebasin-fast match``, ``apply`` and ``merge``: checkpoint files in, checkpoint files out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from typer import Argument, Option, Typer

from rebasin_fast._checkpoint import load_parameters
from rebasin_fast.cli import _model_files as files
from rebasin_fast.cli._architecture import Architecture
from rebasin_fast.cli._common import expected_errors, print_json, progress_bars
from rebasin_fast.cli._options import Arch, AsJson, Force, Inputs, Kwargs, ModelClass, Quiet, SpecFile

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast._progress import Progress
    from rebasin_fast.spec import PermutationSpec

_MATCH_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast match a.safetensors b.safetensors --arch resnet20 -o perm.safetensors

rebasin-fast apply perm.safetensors b.safetensors -o b-aligned.safetensors
"""

_MERGE_EXAMPLES = """\
[bold]Examples[/bold]

rebasin-fast merge a.safetensors b.safetensors --arch mlp -o merged.safetensors

rebasin-fast merge a.pt b.pt --spec spec.json --lambda 0.3 -o merged.pt

rebasin-fast merge 1.pt 2.pt 3.pt 4.pt --arch vgg16 -o merged.pt
"""

_Checkpoint = Annotated[Path, Argument(help="Checkpoint: .safetensors, or a torch file of tensors alone.")]
_Out = Annotated[Path, Option("--out", "-o", help="File to write.")]
_Seed = Annotated[int, Option(min=0, help="Order of the visits; same seed, same answer.")]


def add_to(app: Typer) -> None:
    """Register the commands."""
    app.command(epilog=_MATCH_EXAMPLES)(match)
    app.command(epilog=_MATCH_EXAMPLES)(apply)
    app.command(epilog=_MERGE_EXAMPLES)(merge)


def match(
    a: _Checkpoint,
    b: _Checkpoint,
    out: _Out,
    spec_file: SpecFile = None,
    arch: Arch = None,
    model_class: ModelClass = None,
    kwargs: Kwargs = "{}",
    inputs: Inputs = None,
    seed: _Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the permutation of B's hidden units that brings its weights closest to A's, and write it to a file."""
    with expected_errors():
        architecture = Architecture(spec_file, arch, model_class, kwargs, tuple(inputs or ()))
        architecture.check()
        if out.suffix != ".safetensors":
            raise ValueError(f"--out is {str(out)!r}; expected a name that ends in .safetensors")
        files.check_outputs([out], _read_files(architecture, a, b), force=force)
        made = files.record("match", [a, b], {"seed": seed})
        params_a, params_b = _pair(a, b)
        spec = _spec(architecture, params_a, a)
        permutation, facts = _matched(spec, params_a, params_b, seed, quiet)
        files.write_permutation(permutation, spec, out, made | {"result": facts}, force=force)
        _tell(facts, made, out, as_json)


def apply(
    permutation: Annotated[Path, Argument(help="File that `rebasin-fast match` wrote.")],
    b: _Checkpoint,
    out: _Out,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Reorder B's hidden units: the same function, aligned to the model that B was matched to."""
    from rebasin_fast.permute import apply_permutation

    with expected_errors():
        files.check_outputs(files.outputs(out, b), [permutation, b], force=force)
        made = files.record("apply", [permutation, b], {})
        index, spec = files.read_permutation(permutation)
        params = load_parameters(b, str(b))
        spec.validate(params, str(b), matching=False)
        files.write_model(apply_permutation(spec, index, params), out, b, made, force=force)
        _tell({"units_moved": _moved(index)}, made, out, as_json)


def merge(
    models: Annotated[list[Path], Argument(help="Two or more checkpoints of one architecture.")],
    out: _Out,
    method: Annotated[
        str | None,
        Option(help="weight: match the second to the first, and interpolate. many: the mean of all, aligned."),
    ] = None,
    lam: Annotated[float, Option("--lambda", min=0.0, max=1.0, help="weight: 0 is the first, 1 the second.")] = 0.5,
    spec_file: SpecFile = None,
    arch: Arch = None,
    model_class: ModelClass = None,
    kwargs: Kwargs = "{}",
    inputs: Inputs = None,
    seed: _Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge models trained apart into one, modulo permutation of their hidden units.

    The method is "weight" for two models and "many" for more, unless named. With --model-class the specification is
    proven on the first model before anything is matched. Running statistics of batch norm are averaged like everything
    else: a network with batch norm needs them reset on data (`reset_batch_norm`).
    """
    with expected_errors():
        architecture = Architecture(spec_file, arch, model_class, kwargs, tuple(inputs or ()))
        architecture.check()
        method = _method(method, len(models), lam)
        first = models[0]
        files.check_outputs(files.outputs(out, first), _read_files(architecture, *models), force=force)
        options = {"method": method, "seed": seed} | ({"lambda": lam} if method == "weight" else {})
        made = files.record("merge", models, options)
        merged, facts = (
            _merged_pair(architecture, *models, lam=lam, seed=seed, quiet=quiet)
            if method == "weight"
            else _merged_many(architecture, models, seed, quiet)
        )
        files.write_model(merged, out, first, made | {"result": facts}, force=force)
        _tell(facts, made, out, as_json)


def _method(method: str | None, count: int, lam: float) -> str:
    if count < 2:
        raise ValueError(f"{count} model is given; expected two or more")
    method = method or ("weight" if count == 2 else "many")
    if method not in ("weight", "many"):
        raise ValueError(f"--method is {method!r}; expected weight or many")
    if method == "weight" and count > 2:
        raise ValueError(f"--method weight takes two models, and {count} are given; expected --method many")
    if method == "many" and lam != 0.5:
        raise ValueError(f"--lambda is {lam:g}, but --method many takes the mean; expected --method weight")
    return method


def _merged_pair(
    architecture: Architecture, a: Path, b: Path, *, lam: float, seed: int, quiet: bool
) -> "tuple[Parameters, dict[str, Any]]":
    from rebasin_fast.interpolate import interpolate
    from rebasin_fast.permute import apply_permutation

    params_a, params_b = _pair(a, b)
    spec = _spec(architecture, params_a, a)
    permutation, facts = _matched(spec, params_a, params_b, seed, quiet)
    return interpolate(params_a, apply_permutation(spec, permutation, params_b), lam), facts


def _merged_many(
    architecture: Architecture, models: list[Path], seed: int, quiet: bool
) -> "tuple[Parameters, dict[str, Any]]":
    from rebasin_fast.interpolate import check_same_layout
    from rebasin_fast.merge_many import merge_many

    first = load_parameters(models[0], str(models[0]))
    spec = _spec(architecture, first, models[0])
    for path in models[1:]:  # here, where messages can name the file, and before the work
        check_same_layout(first, load_parameters(path, str(path)), (str(models[0]), str(path)))
    del first  # one model at a time
    with progress_bars(quiet) as progress:
        found = merge_many(spec, models, seed=seed, progress=progress)
    facts = {"distance": list(found.distance), "sweeps": found.sweeps, "converged": found.converged}
    return found.params, facts


def _pair(a: Path, b: Path) -> "tuple[Parameters, Parameters]":
    from rebasin_fast.interpolate import check_same_layout

    params_a, params_b = load_parameters(a, str(a)), load_parameters(b, str(b))
    check_same_layout(params_a, params_b, (str(a), str(b)))
    return params_a, params_b


def _spec(architecture: Architecture, params: "Parameters", path: Path) -> "PermutationSpec":
    from rebasin_fast.prove import require_proof

    spec = architecture.resolve(params)
    spec.validate(params, str(path))
    if architecture.model_class is not None:  # something to compute with: nothing is written on an unproven spec
        require_proof(spec, architecture.model, params, architecture.example())
    return spec


def _matched(
    spec: "PermutationSpec", params_a: "Parameters", params_b: "Parameters", seed: int, quiet: bool
) -> "tuple[dict[str, Any], dict[str, Any]]":
    from rebasin_fast.weight_matching import weight_matching

    with progress_bars(quiet) as bars:
        progress: Progress | None = bars
        found = weight_matching(spec, params_a, params_b, seed=seed, progress=progress)
    facts = {
        "objective": [found.objective[0], found.objective[-1]],
        "sweeps": found.sweeps,
        "converged": found.converged,
        "units_moved": _moved(found.permutation),
    }
    return found.permutation, facts


def _moved(permutation: "dict[str, Any]") -> int:
    return sum(int(np.count_nonzero(index != np.arange(len(index)))) for index in permutation.values())


def _read_files(architecture: Architecture, *checkpoints: Path) -> list[Path]:
    return [*checkpoints, *([] if architecture.spec is None else [architecture.spec])]


def _tell(facts: dict[str, Any], made: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(made | {"result": facts, "out": str(out)})
        return
    for name, value in facts.items():
        shown = f"{value[0]:.6g} -> {value[-1]:.6g}" if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):<11} {shown}")
    print(f"wrote {out}")
