"""``rebasin-fast match``, ``apply`` and ``merge``: checkpoints in, checkpoints out."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from rebasin_fast._residency import resident_within
from rebasin_fast.cli import _methods as methods
from rebasin_fast.cli import _model_files as files
from rebasin_fast.cli._architecture import Architecture, Network
from rebasin_fast.cli._checkpoints import Checkpoint, open_checkpoint
from rebasin_fast.cli._common import expected_errors, note, print_json, progress_bars
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
from rebasin_fast.cli._proof import require_proof

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast._progress import Progress
    from rebasin_fast.cli import _data as data_files

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
        architecture = Architecture(spec_file, arch, model_class, kwargs, tuple(inputs or ()), config).completed(a)
        architecture.check()
        plan = _Plan(architecture, method, data, examples, epochs, batch_size, prove, parse_bytes(max_memory))
        if out.suffix != ".safetensors":
            raise ValueError(f"--out is {str(out)!r}; expected a name that ends in .safetensors")
        plan.check([a, b])
        files.check_outputs([out], [a, b, *plan.read()], force=force)
        with _Work([a, b], key, plan, seed, quiet) as work:
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
            made = files.record("apply", [permutation, b], {}, progress) | _left_out([checkpoint], quiet)
            spec.validate(checkpoint.params, str(b), matching=False)
            moved = methods.aligned(Network(spec), checkpoint, index)
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
        architecture = Architecture(spec_file, arch, model_class, kwargs, tuple(inputs or ()), config)
        architecture = architecture.completed(models[0])
        architecture.check()
        method = _method(method, len(models), lam)
        plan = _Plan(architecture, method, data, examples, epochs, batch_size, prove, parse_bytes(max_memory), repair)
        plan.check(models)
        files.check_model_output(out, models[0], [*models, *plan.read()], force=force)
        weighed = {"lambda": lam} if method in methods.PAIRWISE else {}
        with _Work(models, key, plan, seed, quiet) as work:
            made = work.record("merge", {"method": method, "seed": seed} | weighed | plan.options())
            found = work.matched()
            merged = work.merged(found, lam)
            files.write_model(merged, out, work.checkpoints[0], made | {"result": found.facts}, force=force)
        _tell(found.facts, made, out, as_json)


@dataclass(frozen=True)
class _Plan:
    """What is to be done, and with what."""

    architecture: Architecture
    method: str
    data: Path | None
    examples: int
    epochs: int
    batch_size: int
    prove: bool
    max_memory: int
    repair: bool = False

    def check(self, models: list[Path]) -> None:
        """Check what can be checked before anything is read."""
        if self.method not in methods.METHODS:
            raise ValueError(f"--method is {self.method!r}; expected one of {', '.join(methods.METHODS)}")
        looking = self.method in methods.ON_DATA or self.repair
        what = "--repair" if self.repair and self.method not in methods.ON_DATA else f"--method {self.method}"
        if looking and self.data is None:
            raise ValueError(f"{what} looks at what the models do; expected --data")
        if not looking and self.data is not None:
            raise ValueError(f"--data is {self.data}, which --method {self.method} does not look at; expected none")
        has_model = any((self.architecture.arch, self.architecture.model_class, self.architecture.config))
        if looking and not has_model:
            raise ValueError(f"{what} runs the model; expected --arch, --model-class or --config beside --spec")
        for path in models:
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")

    def read(self) -> list[Path]:
        """Return the files that are read beside the models."""
        return [*self.architecture.read(), *([self.data] if self.data is not None and self.data.is_file() else [])]

    def options(self) -> dict[str, Any]:
        """Return what the record tells beyond method and seed."""
        told: dict[str, Any] = {"repair": True} if self.repair else {}
        if self.data is not None:
            told |= {"data": self.data.name, "examples": self.examples, "batch_size": self.batch_size}
        return told | ({"epochs": self.epochs} if self.method == "ste" else {})


class _Work:
    """Checkpoints, opened and checked against each other and the spec; held within memory while the block lasts."""

    def __init__(self, models: list[Path], key: str | None, plan: _Plan, seed: int, quiet: bool) -> None:
        self._models, self._key, self._plan, self._seed, self._quiet = models, key, plan, seed, quiet
        self._stack = ExitStack()
        self._proof: dict[str, Any] | None = None

    def __enter__(self) -> "_Work":
        with self._stack:
            self._progress: Progress | None = self._stack.enter_context(progress_bars(self._quiet))
            self._open()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        from rebasin_fast.interpolate import check_same_layout

        plan, first = self._plan, self._models[0]
        self.checkpoints = [open_checkpoint(path, self._key) for path in self._models]
        mapped = [file for checkpoint in self.checkpoints for file in checkpoint.mapped]
        self._stack.enter_context(resident_within(plan.max_memory // 2, mapped))
        params = self.checkpoints[0].params
        for checkpoint in self.checkpoints[1:]:
            check_same_layout(params, checkpoint.params, (str(first), str(checkpoint.path)))
        self.network = plan.architecture.resolve(params, str(first))
        self.network.spec.validate(params, str(first), matching=False)
        if plan.prove:
            self._proof = require_proof(self.network, params, plan.max_memory)
        self._examples = self._read_data()

    def record(self, command: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return how what is written is made."""
        beside = [path for path in self._plan.architecture.read() if path.parent not in self._models]
        made = files.record(command, [*self._models, *beside], options, self._progress)
        return made | {"proof": self._proof} | _left_out(self.checkpoints, self._quiet)

    def matched(self) -> methods.Matched:
        """Match, by the method of the plan."""
        plan, params = self._plan, [checkpoint.params for checkpoint in self.checkpoints]
        settings = methods.Settings(self._seed, plan.max_memory // 2, plan.batch_size, plan.epochs)
        with self._on_data():
            if plan.method == "many":
                return methods.match_many(self.network, params, settings, self._progress)
            a, b = params
            return methods.match_pair(plan.method, self.network, a, b, self._examples, settings, self._progress)

    def merged(self, found: methods.Matched, lam: float) -> "Parameters":
        """Return the merged model."""
        pairs = list(zip(self.checkpoints, found.permutations, strict=True))
        if found.merged is not None:
            merged, weights = found.merged, [1 / len(pairs)] * len(pairs)
        else:
            first, second = self.checkpoints
            moved = methods.aligned(self.network, second, found.permutations[1])
            lazily = bool(first.mapped and second.mapped)
            merged, weights = methods.interpolated(first.params, moved, lam, lazily=lazily), [1 - lam, lam]
        if not self._plan.repair:
            return merged
        assert self._examples is not None
        ends = [methods.aligned(self.network, checkpoint, index) for checkpoint, index in pairs]
        with self._on_data():
            return methods.repaired(
                self.network, merged, ends, weights, self._examples, self._plan.batch_size, self._progress
            )

    def _read_data(self) -> "data_files.Examples | None":
        from rebasin_fast.cli import _data as data_files

        plan = self._plan
        if plan.data is None:
            return None
        return data_files.read_examples(plan.data, "train", plan.examples, self._seed, self.network)

    def _on_data(self) -> Any:
        from contextlib import nullcontext

        from rebasin_fast.cli import _data as data_files

        return nullcontext() if self._plan.data is None else data_files.running(self._plan.data)


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


def _left_out(checkpoints: list[Checkpoint], quiet: bool) -> dict[str, Any]:
    """Return, for a record, what files of torch hold that is not taken along; say so."""
    left = {str(checkpoint.path.name): list(checkpoint.left_out) for checkpoint in checkpoints if checkpoint.left_out}
    for name, entries in left.items():
        note(f"not taken from {name}: {', '.join(entries)}", quiet)
    return {"left_out": left} if left else {}


def _tell(facts: dict[str, Any], made: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(made | {"result": facts, "out": str(out)})
        return
    for name, value in facts.items():
        shown = f"{value[0]:.6g} -> {value[-1]:.6g}" if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):<13} {shown}")
    print(f"wrote {out}")
