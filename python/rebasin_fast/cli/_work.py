"""What ``match`` and ``merge`` have in common: what is to be done, and models opened, checked, matched and merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_fast._residency import resident_within
from rebasin_fast.cli import _data as data_files
from rebasin_fast.cli import _methods as methods
from rebasin_fast.cli import _model_files as files
from rebasin_fast.cli._checkpoints import Checkpoint, open_checkpoint
from rebasin_fast.cli._common import note, progress_bars
from rebasin_fast.cli._proof import NO_MODEL, require_proof

if TYPE_CHECKING:
    from rebasin_fast._arrays import Parameters
    from rebasin_fast._progress import Progress
    from rebasin_fast.cli._architecture import Architecture


@dataclass(frozen=True)
class Plan:
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


class Work:
    """Checkpoints, opened and checked against each other and the spec; held within memory while the block lasts."""

    def __init__(self, models: list[Path], key: str | None, plan: Plan, seed: int, quiet: bool) -> None:
        self._models, self._key, self._plan, self._seed, self._quiet = models, key, plan, seed, quiet
        self._stack = ExitStack()
        self._proof: dict[str, Any] | None = None

    def __enter__(self) -> Work:
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
        look = self._stack.enter_context(resident_within(plan.max_memory // 2, mapped))
        self._progress = _looking(self._progress, look)
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
        proof: dict[str, Any] = {"proof": self._proof}
        if self._proof is None:
            proof["not_proven"] = "--no-prove" if not self._plan.prove else NO_MODEL
            note(f"the specification is not proven: {proof['not_proven']}", self._quiet)
        return made | proof | left_out(self.checkpoints, self._quiet)

    def matched(self) -> methods.Matched:
        """Match, by the method of the plan."""
        plan = self._plan
        settings = methods.Settings(self._seed, plan.max_memory // 2, plan.batch_size, plan.epochs)
        with self._on_data(), self._told_by_file():
            if plan.method == "many":
                return methods.match_many(self.network, self.checkpoints, settings, self._progress)
            a, b = (checkpoint.params for checkpoint in self.checkpoints)
            return methods.match_pair(plan.method, self.network, a, b, self._examples, settings, self._progress)

    def merged(self, found: methods.Matched, lam: float, *, whole: bool) -> Parameters:
        """Return the merged model, tensor by tensor or the whole of it: see `methods.aligned`."""
        pairs = list(zip(self.checkpoints, found.permutations, strict=True))
        if found.merged is not None:
            merged, weights = found.merged, [1 / len(pairs)] * len(pairs)
        else:
            first, second = self.checkpoints
            with self._told_by_file():
                moved = methods.aligned(self.network, second, found.permutations[1], whole=whole)
                merged = methods.interpolated(first.params, moved, lam, whole=whole)
            weights = [1 - lam, lam]
        if not self._plan.repair:
            return merged
        assert self._examples is not None
        ends = [methods.aligned(self.network, checkpoint, index) for checkpoint, index in pairs]
        with self._on_data():
            return methods.repaired(
                self.network, merged, ends, weights, self._examples, self._plan.batch_size, self._progress
            )

    @contextmanager
    def _told_by_file(self) -> Iterator[None]:
        """Let what the library says of its arguments name the files."""
        try:
            yield
        except (TypeError, ValueError) as error:
            text = str(error)
            for number, checkpoint in enumerate(self.checkpoints):
                text = text.replace(f"models[{number}]", str(checkpoint.path))
            for name, checkpoint in zip(("params_a", "params_b"), self.checkpoints, strict=False):
                text = text.replace(name, str(checkpoint.path))
            raise type(error)(text) from error

    def _read_data(self) -> data_files.Examples | None:
        plan = self._plan
        if plan.data is None:
            return None
        return data_files.read_examples(plan.data, "train", plan.examples, self._seed, self.network)

    def _on_data(self) -> Any:
        return nullcontext() if self._plan.data is None else data_files.running(self._plan.data)


def _looking(progress: Progress | None, look: Callable[[], None]) -> Progress:
    """Return a progress callback that looks at memory, too: after every group, as methods keep the tensors they got."""

    def report(stage: str, done: int, total: int) -> None:
        look()
        if progress is not None:
            progress(stage, done, total)

    return report


def left_out(checkpoints: list[Checkpoint], quiet: bool) -> dict[str, Any]:
    """Return, for a record, what files of torch hold that is not taken along; say so."""
    left = {str(checkpoint.path.name): list(checkpoint.left_out) for checkpoint in checkpoints if checkpoint.left_out}
    for name, entries in left.items():
        note(f"not taken from {name}: {', '.join(entries)}", quiet)
    return {"left_out": left} if left else {}
