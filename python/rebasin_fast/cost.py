"""What weight matching maximises: the inner product of A and the permuted B, over the parameters that count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rebasin_fast._arrays import (
    Array,
    Index,
    Parameters,
    brought_home,
    common_home,
    inner_total,
    is_finite,
    is_floating,
    is_remote,
    is_wide,
    moved_positions,
    narrow,
    numbers,
    take,
)
from rebasin_fast.permute import Permutation
from rebasin_fast.spec import PermutationSpec

_INNER_ELEMENTS = 1 << 16  # of a chunk of the objective: small enough for its float64 copies to stay in the cache
_INNER_ELEMENTS_REMOTE = 1 << 22  # on a device: large enough to be worth a launch


@dataclass(frozen=True, eq=False)
class MatchedArray:
    """One parameter of both networks, laid out so that a unit is one entry of its axis.

    Attributes
    ----------
    a, b : array
        Of one shape. An axis with blocks has become two: units, and the entries of a unit. Views of the caller's
        memory where library and device allow, in the caller's dtype.
    groups : tuple of (str or None)
        The group on every axis, or None.
    """

    a: Array
    b: Array
    groups: tuple[str | None, ...]

    @property
    def degree(self) -> int:
        """How many groups move it."""
        return sum(group is not None for group in self.groups)


class MatchedPair:
    """The matched parameters of two networks, checked. Nothing of the caller's is modified or copied without need.

    Parameters
    ----------
    spec : PermutationSpec
        The architecture of both.
    params_a, params_b : mapping of str to array
        State dicts of numpy arrays or torch tensors.
    dtype : str, optional
        What matching works in. Default: ``"float64"`` where a parameter of either network has it, else ``"float32"``.

    Attributes
    ----------
    arrays : dict of str to MatchedArray
        The parameters that are terms of the objective. Tensors all lie on the device of the first one of A.
    sizes : dict of str to int
        Units of every group.
    dtype : str
        What matching works in.
    home : Tensor or None
        The first tensor of A, where all of `arrays` lie; None where they are numpy arrays.

    Raises
    ------
    TypeError
        If a parameter that is to be matched does not hold floating-point numbers.
    ValueError
        If a state dict does not fit `spec`, the shapes of A and B differ, or a parameter holds NaN or infinity.
    """

    def __init__(
        self, spec: PermutationSpec, params_a: Parameters, params_b: Parameters, dtype: str | None = None
    ) -> None:
        spec.validate(params_a, "params_a")
        spec.validate(params_b, "params_b")
        self.spec = spec
        self.sizes = spec.group_sizes(params_a)
        names = [param for param in spec.params if self._counts(param, params_a, params_b)]
        for param in names:
            _require_finite_floats(f"params_a[{param!r}]", params_a[param])
            _require_finite_floats(f"params_b[{param!r}]", params_b[param])
        every = [params[param] for params in (params_a, params_b) for param in names]
        self.home = common_home(every)
        self.dtype = dtype or ("float64" if any(is_wide(array) for array in every) else "float32")
        self._shapes = {param: tuple(params_a[param].shape) for param in names}
        self.arrays = {param: self._laid_out(param, params_a[param], params_b[param]) for param in names}

    def with_a(self, params_a: Parameters) -> MatchedPair:
        """Return the pair of another A, of the same shapes, and the same B.

        Raises
        ------
        TypeError, ValueError
            As the class.
        """
        self.spec.validate(params_a, "params_a")
        other = object.__new__(MatchedPair)
        other.__dict__ |= {**self.__dict__, "arrays": {}}
        for param, matched in self.arrays.items():
            _require_finite_floats(f"params_a[{param!r}]", params_a[param])
            came, expected = tuple(params_a[param].shape), self._shapes[param]
            if came != expected:
                raise ValueError(f"params_a[{param!r}] has shape {came}; expected {expected}, as in params_b")
            a = brought_home(params_a[param], self.home).reshape(tuple(matched.a.shape))
            other.arrays[param] = MatchedArray(a, matched.b, matched.groups)
        return other

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A and the permuted B over the matched parameters, summed in float64.

        `permutation` may hold index arrays in kind, as may all that follows.
        """
        return numbers(sum(self._param_total(param, permutation) for param in self.arrays))[0]

    def param_objective(self, param: str, permutation: Permutation) -> float:
        """Return what one parameter adds to the objective."""
        return numbers(self._param_total(param, permutation))[0]

    def _param_total(self, param: str, permutation: Permutation) -> Any:
        """Return what one parameter adds to the objective, as `_arrays.total` does."""
        matched = self.arrays[param]
        if not matched.groups:
            return inner_total(matched.a, matched.b)
        first, *rest = (None if group is None else permutation[group] for group in matched.groups)
        total: Any = 0.0
        for start, stop in _chunks(matched.a):
            b = narrow(matched.b, 0, start, stop) if first is None else take(matched.b, first[start:stop], 0)
            for axis, index in enumerate(rest, start=1):
                b = b if index is None else take(b, index, axis)
            total += inner_total(narrow(matched.a, 0, start, stop), b)
        return total

    def neighbours(self) -> dict[str, frozenset[str]]:
        """Return for every group the groups it shares a parameter with: those whose costs change when it does."""
        found: dict[str, set[str]] = {group: set() for group in self.spec.groups}
        for matched in self.arrays.values():
            on_it = {group for group in matched.groups if group is not None}
            for group in on_it:
                found[group] |= on_it - {group}
        return {group: frozenset(others) for group, others in found.items()}

    def _counts(self, param: str, params_a: Parameters, params_b: Parameters) -> bool:
        # Arrays that no group moves add a constant to the objective; integers among them are no weights.
        moved = any(self.spec.axes[param])
        floats = is_floating(params_a[param]) and is_floating(params_b[param])
        return self.spec.matched(param) and (moved or floats)

    def _laid_out(self, param: str, a: Array, b: Array) -> MatchedArray:
        if tuple(a.shape) != tuple(b.shape):
            raise ValueError(
                f"params_b[{param!r}] has shape {tuple(b.shape)}; expected {tuple(a.shape)}, as in params_a"
            )
        shape: list[int] = []
        groups: list[str | None] = []
        for length, axis in zip(a.shape, self.spec.axes[param], strict=True):
            if axis is None or axis.block == 1:
                shape.append(int(length))
                groups.append(None if axis is None else axis.group)
            else:
                shape += [int(length) // axis.block, axis.block]
                groups += [axis.group, None]
        a, b = (brought_home(array, self.home).reshape(shape) for array in (a, b))
        return MatchedArray(a, b, tuple(groups))


def moved_units(old: Index, new: Index) -> Index:
    """Return the positions at which two permutations differ."""
    return moved_positions(old, new) if old is not new else np.empty(0, dtype=np.int64)


def _chunks(array: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of the first axis that hold about as many elements as a chunk of the objective."""
    elements = _INNER_ELEMENTS_REMOTE if is_remote(array) else _INNER_ELEMENTS
    width = max(1, int(np.prod(array.shape[1:])))
    step = max(1, elements // width)
    for start in range(0, int(array.shape[0]), step):
        yield start, min(start + step, int(array.shape[0]))


def _require_finite_floats(name: str, array: Array) -> None:
    if not is_floating(array):
        raise TypeError(f"{name} has dtype {array.dtype}; expected floating-point numbers, because it is to be matched")
    if not is_finite(array):
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
