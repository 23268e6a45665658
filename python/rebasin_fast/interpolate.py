"""The way from one parameter set to another: straight (lerp) or along the sphere (slerp)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from rebasin_fast import _arrays
from rebasin_fast._arrays import Array, Parameters

Method: TypeAlias = Literal["lerp", "slerp"]

_PARALLEL = 1e-6
"""Sine of the angle below which slerp is lerp: they differ by the square of the angle, and 0/0 is near."""


def interpolate(params_a: Parameters, params_b: Parameters, lam: float, *, method: Method = "lerp") -> dict[str, Array]:
    r"""Interpolate between two parameter sets, tensor by tensor.

    ``"lerp"`` is :math:`(1-\lambda) a + \lambda b`. ``"slerp"`` (Shoemake 1985) takes each tensor as one flat vector,
    turns its direction from `a` to `b` at constant angular speed, and changes its norm linearly from
    :math:`\|a\|` to :math:`\|b\|`, so that averaging does not shrink it. Where the direction of the turn is not
    defined (zero vectors, parallel or opposite ones) slerp is lerp.

    Parameters
    ----------
    params_a, params_b : mapping of str to array
        Numpy arrays or torch tensors; the same names, shapes, dtypes, library and devices in both.
    lam : float
        The position: 0 is `params_a`, 1 is `params_b`, both exact. ``"lerp"`` takes any finite number (outside of
        [0, 1] it extrapolates); ``"slerp"`` takes 0 to 1.
    method : "lerp" or "slerp", default "lerp"
        The way, see above.

    Returns
    -------
    dict of str to array
        New arrays with the names, order, dtypes and devices of `params_a`. Floating-point arrays narrower than float32
        are computed in float32 and rounded once. Arrays that are not floating-point (such as ``num_batches_tracked``)
        are copies of those in `params_a` at any `lam`. Names that are one tensor in both are one again. Tensors carry
        no gradient.

    Raises
    ------
    TypeError
        `params_a` or `params_b` is no mapping, or holds something that is no array; `lam` is no real number.
    ValueError
        `lam` is not finite, or outside [0, 1] with slerp; unknown `method`; names, shapes, dtypes, libraries or devices
        that differ; NaN or infinity in a parameter; a result too large for its dtype.

    References
    ----------
    K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, doi:10.1145/325334.325242.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = {"weight": np.array([1.0, 0.0])}, {"weight": np.array([0.0, 1.0])}
    >>> interpolate(a, b, 0.25)["weight"]
    array([0.75, 0.25])
    >>> interpolate(a, b, 0.5, method="slerp")["weight"]
    array([0.70710678, 0.70710678])
    """
    weights = _METHODS.get(method)
    if weights is None:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(map(repr, _METHODS))}")
    position = _position(lam, method)
    check_same_layout(params_a, params_b)
    mixed: dict[str, Array] = {}
    done: dict[tuple[Any, ...], tuple[Array, Array, Array]] = {}  # the inputs stay alive beside what was made of them
    for name, a in params_a.items():
        b = params_b[name]
        key = _arrays.memory_key(a), _arrays.memory_key(b)
        if key not in done:
            done[key] = a, b, _between(name, a, b, position, weights)
        mixed[name] = done[key][2]
    return mixed


def check_same_layout(
    params_a: Parameters, params_b: Parameters, labels: tuple[str, str] = ("params_a", "params_b")
) -> None:
    """Check that two parameter sets agree in names, and name by name in library, shape, dtype and device.

    Parameters
    ----------
    params_a, params_b : mapping of str to array
        What is compared.
    labels : tuple of str, optional
        What messages call them.

    Raises
    ------
    TypeError
        One of them is no mapping, or holds something that is no array.
    ValueError
        They differ; the message names the parameters.
    """
    label_a, label_b = labels
    for label, params in ((label_a, params_a), (label_b, params_b)):
        if not isinstance(params, Mapping):
            raise TypeError(f"{label} is a {type(params).__name__}; expected a mapping of names to arrays")
        for name, array in params.items():
            if not _arrays.is_array(array):
                found = type(array).__name__
                raise TypeError(f"{label}[{name!r}] is a {found}; expected a numpy array or a torch tensor")
    only_a = [name for name in params_a if name not in params_b]
    only_b = [name for name in params_b if name not in params_a]
    if only_a or only_b:
        raise ValueError(
            f"{label_a} and {label_b} have different names; only in {label_a}: {only_a}, in {label_b}: {only_b}"
        )
    for name, array in params_a.items():
        for what, describe in _LAYOUT.items():
            have, expected = describe(params_b[name]), describe(array)
            if have != expected:
                raise ValueError(f"{label_b}[{name!r}] has {what} {have}; expected {expected}, as in {label_a}")


_LAYOUT: dict[str, Callable[[Array], object]] = {
    "library": lambda array: "numpy" if _arrays.torch_of(array) is None else "torch",
    "shape": lambda array: tuple(array.shape),
    "dtype": lambda array: array.dtype,
    "device": lambda array: "cpu" if _arrays.torch_of(array) is None else array.device,
}


def _position(lam: object, method: str) -> float:
    if isinstance(lam, bool) or not isinstance(lam, numbers.Real):
        raise TypeError(f"lam is {lam!r}; expected a real number")
    position = float(lam)
    if not math.isfinite(position):
        raise ValueError(f"lam is {position}; expected a finite number")
    if method == "slerp" and not 0.0 <= position <= 1.0:
        raise ValueError(f"lam is {position}; slerp expects a number from 0 to 1")
    return position


def _between(name: str, a: Array, b: Array, lam: float, weights: Callable[[Array, Array, float], _Weights]) -> Array:
    if not _arrays.is_floating(a):
        if "complex" in str(a.dtype):
            raise ValueError(f"params_a[{name!r}] has dtype {a.dtype}; expected a real one")
        return _arrays.copy(a)
    wide_a, wide_b = _arrays.to_compute(a, b)
    for label, wide in (("params_a", wide_a), ("params_b", wide_b)):
        if not _arrays.is_finite(wide):
            raise ValueError(f"{label}[{name!r}] holds NaN or infinity; expected finite numbers")
    if lam in (0.0, 1.0):  # exact, down to the sign of a zero
        return _arrays.copy(b if lam else a)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below, with the parameter's name
        weight_a, weight_b = weights(wide_a, wide_b, lam)
        mixed = _arrays.cast_like(weight_a * wide_a + weight_b * wide_b, a)
    if not _arrays.is_finite(mixed):
        raise ValueError(f"{name!r} at lam = {lam} is too large for {a.dtype}")
    return mixed


_Weights: TypeAlias = tuple[float, float]


def _lerp(_a: Array, _b: Array, lam: float) -> _Weights:
    return 1.0 - lam, lam


def _slerp(a: Array, b: Array, lam: float) -> _Weights:
    norm_a, norm_b = math.sqrt(_arrays.inner(a, a)), math.sqrt(_arrays.inner(b, b))
    if norm_a == 0.0 or norm_b == 0.0:
        return _lerp(a, b, lam)
    angle = math.acos(max(-1.0, min(1.0, _arrays.inner(a, b) / norm_a / norm_b)))
    sine = math.sin(angle)
    if sine < _PARALLEL:
        return _lerp(a, b, lam)
    norm = (1.0 - lam) * norm_a + lam * norm_b
    return norm / norm_a * math.sin((1.0 - lam) * angle) / sine, norm / norm_b * math.sin(lam * angle) / sine


_METHODS: dict[str, Callable[[Array, Array, float], _Weights]] = {"lerp": _lerp, "slerp": _slerp}
