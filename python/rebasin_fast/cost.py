"""Cost matrices of weight matching: for one group, how well every unit of A goes with every unit of B."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rebasin_fast._arrays import (
    Array,
    Parameters,
    inner,
    is_finite,
    is_floating,
    same_library,
    take,
    to_compute,
    to_numpy,
    unfold,
)
from rebasin_fast.permute import Permutation, entries_of_units
from rebasin_fast.spec import Member, PermutationSpec


class MatchedPair:
    """The matched parameters of two networks, checked and in the precision matching works in.

    float64 stays float64 where either network has it, every narrower float becomes float32. Nothing of the caller's
    is modified; arrays that already have that dtype are not copied.

    Parameters
    ----------
    spec : PermutationSpec
        The architecture of both.
    params_a, params_b : mapping of str to array
        State dicts of numpy arrays or torch tensors.

    Raises
    ------
    TypeError
        If a parameter that is to be matched does not hold floating-point numbers.
    ValueError
        If a state dict does not fit `spec`, the shapes of A and B differ, or a parameter holds NaN or infinity.
    """

    def __init__(self, spec: PermutationSpec, params_a: Parameters, params_b: Parameters) -> None:
        spec.validate(params_a, "params_a")
        spec.validate(params_b, "params_b")
        self.spec = spec
        self.a: dict[str, Array] = {}
        self.b: dict[str, Array] = {}
        for param in spec.params:
            a, b = params_a[param], params_b[param]
            if tuple(a.shape) != tuple(b.shape):
                raise ValueError(
                    f"params_b[{param!r}] has shape {tuple(b.shape)}; expected {tuple(a.shape)}, as in params_a"
                )
            # Arrays that no group moves add a constant to the objective; integers among them are no weights.
            if spec.matched(param) and (any(spec.axes[param]) or (is_floating(a) and is_floating(b))):
                _require_finite_floats(f"params_a[{param!r}]", a)
                _require_finite_floats(f"params_b[{param!r}]", b)
                self.a[param], self.b[param] = to_compute(*same_library(a, b))

    def members(self, group: str) -> list[Member]:
        """Return the members of `group` that are terms of the objective."""
        return [member for member in self.spec.groups[group] if member.param in self.a]

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A and the permuted B over the matched parameters, summed in float64."""
        return sum(inner(a, self.permuted(param, permutation)) for param, a in self.a.items())

    def permuted(self, param: str, permutation: Permutation, leave: int | None = None) -> Array:
        """Return B's `param` with every axis permuted but axis number `leave`."""
        array = self.b[param]
        for i, axis in enumerate(self.spec.axes[param]):
            if axis is not None and i != leave:
                array = take(array, entries_of_units(permutation[axis.group], axis.block), i)
        return array

    def cost_matrix(self, group: str, permutation: Permutation, size: int) -> npt.NDArray[np.floating]:
        """Return the (size, size) matrix S to be maximised: S[i, j] = <unit i of A, unit j of B>, others permuted.

        Sum over the members of A_axis . B_axis^T (Ainsworth et al. 2023, equation 2): each member laid out with its
        units as rows, every other axis of B permuted as `permutation` says.
        """
        total: Array = None
        for member in self.members(group):
            rows_a = unfold(self.a[member.param], member.axis, size)
            rows_b = unfold(self.permuted(member.param, permutation, leave=member.axis), member.axis, size)
            product = rows_a @ rows_b.T
            total = product if total is None else total + product
        return np.zeros((size, size), dtype=np.float32) if total is None else to_numpy(total)


def neighbours(pair: MatchedPair) -> Mapping[str, frozenset[str]]:
    """Return for every group the groups it shares a matched parameter with: those whose change changes its costs."""
    axes = {param: {axis.group for axis in pair.spec.axes[param] if axis is not None} for param in pair.a}
    return {
        group: frozenset().union(*(axes[member.param] for member in pair.members(group))) - {group}
        for group in pair.spec.groups
    }


def _require_finite_floats(name: str, array: Array) -> None:
    if not is_floating(array):
        raise TypeError(f"{name} has dtype {array.dtype}; expected floating-point numbers, because it is to be matched")
    if not is_finite(array):
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
