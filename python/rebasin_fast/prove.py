"""Proof by trial that a spec is one of a model: permute at random, and compare what the model computes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import IndexArray, Parameters
from ._extras import require
from ._modules import state_for
from .permute import apply_permutation, blocks_of_units, identity_permutation, random_permutation, units_in_blocks

if TYPE_CHECKING:
    from .spec import PermutationSpec

_EXAMPLES = 16

_TOLERANCE = {"float64": 1e-6, "float32": 1e-3}
"""Above the rounding of sums in another order, below what a permutation gone wrong does. Models that compute parts in
float32 whatever they are given change by some 1e-7 in float64."""


@dataclass(frozen=True)
class Proof:
    """The outcome of `PermutationSpec.prove`.

    Attributes
    ----------
    holds : bool
        Whether no output changed by more than `rtol`.
    change : float
        The largest relative change of any output, norm of the difference over norm, over all trials.
    rtol : float
        What was allowed.
    trials : int
        Random permutations tried.
    dtype : str
        What was computed in.
    broken_groups : tuple of str
        Groups that change the output when they alone, with the groups in their blocks, are permuted; empty if it holds.
    """

    holds: bool
    change: float
    rtol: float
    trials: int
    dtype: str
    broken_groups: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        text = (
            f"the specification {verdict}: {self.trials} random permutations changed the outputs by up to "
            f"{self.change:.1e} ({self.dtype}; allowed: {self.rtol:.0e})"
        )
        return text + (f"; by these groups alone: {', '.join(self.broken_groups)}" if self.broken_groups else "")


def prove(
    spec: PermutationSpec,
    model: Any,
    inputs: Any,
    *,
    params: Parameters | None = None,
    trials: int,
    seed: int,
    rtol: float | None,
    double: bool,
) -> Proof:
    """Return the proof; see `PermutationSpec.prove`."""
    torch = require("torch", "torch")
    if trials < 1:
        raise ValueError(f"trials is {trials}; expected at least 1")
    check = _Check(torch, spec, model, inputs, params)
    dtypes = [torch.float64, torch.float32] if double else [torch.float32]
    for dtype in dtypes:
        try:
            check.run_as(dtype)
            break
        except RuntimeError:
            # Models with float32 constants in their code cannot run in float64.
            if dtype is dtypes[-1]:
                raise
    name = str(check.dtype).removeprefix("torch.")
    allowed = _TOLERANCE[name] if rtol is None else rtol
    rng = np.random.default_rng(seed)
    changes = [check.change(random_permutation(spec, rng, check.state)) for _ in range(trials)]
    worst = math.inf if any(map(math.isnan, changes)) else max(changes)
    if worst <= allowed:
        return Proof(True, worst, allowed, trials, name)
    broken = [g for g in spec.groups if not check.change(_alone(spec, g, rng, check.state)) <= allowed]
    return Proof(False, worst, allowed, trials, name, tuple(broken))


def require_proof(spec: PermutationSpec, model: Any, params: Parameters, inputs: Any) -> None:
    """Raise if the spec is not one of a network: random permutations of it change what it computes.

    Raises
    ------
    ValueError
        With the groups that do, and by how much.
    """
    proof = spec.prove(model, inputs, params=params)
    if not proof:
        raise ValueError(f"spec is not one of model: {proof}. Nothing was matched or merged")


def few_examples(inputs: Any) -> tuple[Any]:
    """Return the first examples of a batch, as arguments of the model: enough to prove a spec on."""
    if isinstance(inputs, Mapping):
        return (inputs,)
    return (inputs[:_EXAMPLES],)


def holds_examples(inputs: Any) -> bool:
    """Return whether a batch, a tensor or tensors by name, has any: one that has none shows nothing."""
    if isinstance(inputs, Mapping):
        return all(holds_examples(value) for value in inputs.values())
    shape: tuple[int, ...] = tuple(getattr(inputs, "shape", ()))
    return not shape or shape[0] > 0


class _Check:
    """A model with its inputs, as they are compared."""

    def __init__(self, torch: Any, spec: PermutationSpec, model: Any, inputs: Any, params: Parameters | None) -> None:
        from .tracing import arguments_of, refuse_others

        refuse_others(torch, model)
        own = model.state_dict()
        self._params = own
        if params is not None:
            state = state_for(model, params)
            self._params = {name: state[name] for name in own}
        meta = [name for name, tensor in self._params.items() if getattr(tensor, "is_meta", False)]
        if meta:
            raise ValueError(f"model has no values for {meta[0]!r} (meta device); expected a model to compute with")
        self._torch, self._spec, self._model = torch, spec, model
        self._arguments = arguments_of(inputs)

    def run_as(self, dtype: Any) -> None:
        """Compute the outputs to compare with, in `dtype` or wider."""
        self.dtype = dtype
        saved = self._params
        buffers = dict(self._model.named_buffers(remove_duplicate=False))
        self._rest = {name: self._cast(tensor) for name, tensor in buffers.items() if name not in saved}
        cast: dict[Any, Any] = {}
        self.state = {}
        for name, tensor in saved.items():
            # Tied parameters stay one tensor.
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            self.state[name] = cast.setdefault(key, self._cast(tensor)) if tensor.numel() else self._cast(tensor)
        self._args = require("torch.utils._pytree", "torch").tree_map_only(
            self._torch.Tensor, self._cast, self._arguments
        )
        self._before = self._outputs(self.state)
        if not any(bool(output.isfinite().any()) for output in self._before):
            raise ValueError("the model's outputs hold no finite number; expected inputs that show what it computes")

    def change(self, permutation: Mapping[str, IndexArray]) -> float:
        """Return the largest relative change of any output."""
        after = self._outputs(apply_permutation(self._spec, permutation, self.state))
        changes = [_relative(a, b) for a, b in zip(self._before, after, strict=True)]
        return max(changes, default=0.0) if not any(map(math.isnan, changes)) else math.nan

    def _cast(self, tensor: Any) -> Any:
        return tensor.detach().to(self.dtype) if tensor.is_floating_point() else tensor.detach()

    def _outputs(self, state: Mapping[str, Any]) -> list[Any]:
        from .tracing.surroundings import tensors_in, untouched

        args, kwargs = self._args
        quiet = _quiet_generator(self._torch)
        with self._torch.no_grad(), untouched(self._model), quiet, _default(self._torch, self.dtype):
            state = {**state, **self._rest}  # tied weights may be separate arrays in a state dict
            outputs = self._torch.func.functional_call(self._model, state, args, kwargs, tie_weights=False)
        return [tensor for _, tensor in tensors_in(self._torch, outputs, "output")]


@contextlib.contextmanager
def _quiet_generator(torch: Any) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def _default(torch: Any, dtype: Any) -> Iterator[None]:
    """Have numbers that the model makes into tensors on the way be of the dtype it computes in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _relative(a: Any, b: Any) -> float:
    if tuple(a.shape) != tuple(b.shape):
        return math.inf
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if bool((a == b).all()) else math.inf
    # Masks put infinities into some outputs; they have to be the same ones.
    finite = a.isfinite() & b.isfinite()
    if not bool(((a == b) | finite | (a.isnan() & b.isnan())).all()):
        return math.inf
    a, b = a[finite], b[finite]
    norm = float(a.norm())
    return float((a - b).norm()) / norm if norm else float((a - b).norm())


def _alone(spec: PermutationSpec, group: str, rng: np.random.Generator, params: Any) -> dict[str, IndexArray]:
    """Return a random permutation of one group; its units take with them what lies in their blocks."""
    drawn = random_permutation(spec, rng, params)
    found = identity_permutation(spec, params)
    own = len(found[group]) // len(blocks_of_units(spec, found, group))
    stay = blocks_of_units(spec, found, group)
    inner = drawn[group].reshape(len(stay), own) % own
    found[group] = units_in_blocks(stay, inner)
    for child in _descendants(spec, group):
        blocks = blocks_of_units(spec, found, child)
        size = len(found[child]) // len(blocks)
        found[child] = units_in_blocks(blocks, np.broadcast_to(np.arange(size), (len(blocks), size)))
    return found


def _descendants(spec: PermutationSpec, group: str) -> list[str]:
    children = [child for child, parent in spec.blocks.items() if parent == group]
    return [*children, *(g for child in children for g in _descendants(spec, child))]
