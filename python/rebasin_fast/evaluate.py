"""Loss and accuracy of a model under given parameters, and along the way from one parameter set to another."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rebasin_fast import _arrays
from rebasin_fast._arrays import Parameters
from rebasin_fast._extras import require
from rebasin_fast._modules import call, in_mode, state_for
from rebasin_fast._progress import Progress
from rebasin_fast.interpolate import Method, check_same_layout, interpolate

if TYPE_CHECKING:
    import torch

FloatArray: TypeAlias = npt.NDArray[np.float64]

Loss: TypeAlias = Callable[[Any, Any], Any]
"""(outputs, targets) of one batch to the mean loss over its examples, a tensor with one element."""


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a set of examples.

    Attributes
    ----------
    loss : float
        Mean loss over the examples; NaN or infinite when the model's is.
    accuracy : float
        Fraction of examples, 0 to 1, whose largest logit is that of their class; NaN when outputs and targets are not
        class logits and class indices.
    count : int
        Number of examples.
    """

    loss: float
    accuracy: float
    count: int


@dataclass(frozen=True, eq=False)
class BarrierResult:
    """Loss and accuracy on the way from A to B.

    Attributes
    ----------
    lambdas : ndarray of float64, shape (n,)
        Positions, ascending, from 0 (A) to 1 (B).
    loss, accuracy : ndarray of float64, shape (n,)
        As in `Evaluation`, at each position.
    barrier : float
        ``max(loss) - (loss[0] + loss[-1]) / 2``; NaN when any loss is NaN. Never less than half the difference of the
        two ends, hence not negative.
    method : "lerp" or "slerp"
        The interpolation.
    count : int
        Number of examples at each position.
    """

    lambdas: FloatArray
    loss: FloatArray
    accuracy: FloatArray
    barrier: float
    method: str
    count: int


def evaluate(
    model: torch.nn.Module,
    params: Parameters,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate `model` with `params` in place of its own parameters and buffers.

    The model runs in evaluation mode and without gradients. Its parameters, buffers (batch norm statistics included)
    and training flags are as before afterwards, whatever happens; so is `params`. Not to be called for one `model`
    from several threads at once, as torch swaps the parameters in for the time of a call.

    Parameters
    ----------
    model : torch.nn.Module
        Maps a batch of inputs to outputs.
    params : mapping of str to array
        Torch tensors or numpy arrays for all names of ``model.state_dict()``, with the same shapes.
    batches : iterable of (inputs, targets)
        `targets` is a tensor whose first axis counts the examples, `inputs` is what `model`
        takes. Both are expected on the model's device.
    loss : callable, optional
        Maps (outputs, targets) to the mean loss over the batch, one number. By default the cross-entropy of logits,
        in float32 or wider.
    progress : callable, optional
        Called after each batch as ``progress("evaluate", done, total)``; total is 0 when `batches` has no length.

    Returns
    -------
    Evaluation
        Means over all examples (each batch weighted by its number of examples), accumulated in float64. The accuracy
        is defined for floating-point outputs of shape (N, C) with integer targets of shape (N,), and NaN otherwise;
        a row of outputs that holds NaN counts as wrong.

    Raises
    ------
    TypeError
        An argument, or a batch, is of the wrong type.
    ValueError
        No examples; a batch that is no pair, or whose sizes differ; names or shapes in `params` that differ from the
        model's; a loss that is not one number.
    ImportError
        Without torch.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> batch = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> evaluate(model, {"weight": torch.eye(2)}, [batch]).accuracy
    1.0
    """
    torch = require("torch", "torch")
    state = state_for(model, params)
    measure = cross_entropy if loss is None else loss
    total = len(batches) if isinstance(batches, Sized) else 0
    loss_sum, correct, count = 0.0, 0.0, 0
    with in_mode(model, training=False), torch.no_grad():
        for done, batch in enumerate(batches):
            inputs, targets = pair_of(batch, done)
            if len(targets):
                outputs = call(model, state, inputs)
                loss_sum += one_number(measure(outputs, targets)) * len(targets)
                correct += _count_correct(outputs, targets)
                count += len(targets)
            if progress is not None:
                progress("evaluate", done + 1, total)
    if count == 0:
        raise ValueError("batches holds no examples; expected at least one")
    return Evaluation(loss_sum / count, correct / count, count)


def barrier(
    model: torch.nn.Module,
    params_a: Parameters,
    params_b: Parameters,
    batches: Iterable[Any],
    *,
    lambdas: int | Sequence[float] | FloatArray = 25,
    method: Method = "lerp",
    loss: Loss | None = None,
    progress: Progress | None = None,
) -> BarrierResult:
    r"""Measure the loss barrier between two parameter sets.

    With :math:`\theta_\lambda` on the way from A to B, it is (Ainsworth et al. 2023, Definition 2.2)

    .. math:: \max_\lambda L(\theta_\lambda) - \tfrac12 \left(L(\theta_A) + L(\theta_B)\right).

    Parameters
    ----------
    model, loss
        As in `evaluate`.
    params_a, params_b
        As `params` in `evaluate`, and with equal names, shapes, dtypes, library and devices.
    batches : iterable of (inputs, targets)
        As in `evaluate`. Iterated once per position; an iterator, which can be read only once, is first read into a
        list.
    lambdas : int or sequence of float, default 25
        A number of equally spaced positions, both ends included, 2 or more; or the positions themselves, in [0, 1].
        They are sorted, and 0 and 1 are added where they are missing.
    method : "lerp" or "slerp", default "lerp"
        The interpolation, see `interpolate`.
    progress : callable, optional
        Called after each position as ``progress("barrier", done, total)``.

    Returns
    -------
    BarrierResult
        The curves and the barrier. A loss that is NaN stays NaN, and makes the barrier NaN.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `evaluate` and `interpolate`; ValueError also for `lambdas` outside of [0, 1], not finite or too few.

    References
    ----------
    S. K. Ainsworth, J. Hayase, S. Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023,
    arXiv:2209.04836.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
    >>> a, b = {"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[-1.0]])}
    >>> result = barrier(model, a, b, [batch], lambdas=3, loss=torch.nn.functional.mse_loss)
    >>> result.loss
    array([1., 0., 1.])
    >>> result.barrier
    0.0
    """
    positions = _positions(lambdas)
    check_same_layout(params_a, params_b)
    batches = list(batches) if isinstance(batches, Iterator) else batches
    points: list[Evaluation] = []
    for lam in positions.tolist():
        params = interpolate(params_a, params_b, lam, method=method)
        if lam == 1.0:  # B itself, its integer buffers included
            params = dict(params_b)
        points.append(evaluate(model, params, batches, loss=loss))
        if progress is not None:
            progress("barrier", len(points), len(positions))
    losses = np.array([point.loss for point in points])
    height = float(losses.max()) - (points[0].loss + points[-1].loss) / 2
    accuracies = np.array([point.accuracy for point in points])
    return BarrierResult(positions, losses, accuracies, height, method, points[0].count)


def _positions(lambdas: object) -> FloatArray:
    if isinstance(lambdas, numbers.Integral) and not isinstance(lambdas, bool):
        if lambdas < 2:
            raise ValueError(f"lambdas is {lambdas}; expected 2 positions or more")
        return np.linspace(0.0, 1.0, int(lambdas))
    expected = "expected a number of positions, or positions from 0 to 1 in one dimension"
    try:
        positions = np.asarray(lambdas)
    except ValueError as error:  # nested sequences of different lengths
        raise ValueError(f"lambdas is {lambdas!r}; {expected}") from error
    if positions.dtype.kind not in "fiu":
        raise TypeError(f"lambdas is {lambdas!r}; {expected}")
    if positions.ndim != 1 or not np.all((positions >= 0) & (positions <= 1)):
        raise ValueError(f"lambdas is {lambdas!r}; {expected}")
    return np.union1d(np.array([0.0, 1.0]), positions.astype(np.float64))


def pair_of(batch: object, number: int) -> tuple[Any, torch.Tensor]:
    """Return the (inputs, targets) of batch `number`, checked."""
    if not isinstance(batch, (tuple, list)):
        raise TypeError(f"batch {number} is a {type(batch).__name__}; expected a pair (inputs, targets)")
    if len(batch) != 2:
        raise ValueError(f"batch {number} has {len(batch)} items; expected 2, a pair (inputs, targets)")
    inputs, targets = batch
    if _arrays.torch_of(targets) is None or targets.ndim == 0:
        found = "a tensor without dimensions" if _arrays.torch_of(targets) is not None else type(targets).__name__
        raise TypeError(f"the targets of batch {number} are {found}; expected a torch tensor, examples first")
    if _arrays.torch_of(inputs) is not None and (inputs.ndim == 0 or len(inputs) != len(targets)):
        raise ValueError(f"batch {number} has inputs of shape {tuple(inputs.shape)} but {len(targets)} targets")
    return inputs, targets


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> Any:
    """Return the mean cross-entropy of logits, in float32 or wider."""
    torch = require("torch", "torch")
    if not isinstance(outputs, torch.Tensor):
        found = type(outputs).__name__
        raise TypeError(f"the model returned a {found}; expected a tensor of logits (or a loss that takes a {found})")
    if torch.finfo(outputs.dtype).bits < 32:
        outputs = outputs.float()
    return torch.nn.functional.cross_entropy(outputs, targets)


def one_number(loss: Any) -> float:
    """Return the one number a loss holds; raise a ValueError if it holds more."""
    shape = tuple(getattr(loss, "shape", ()))
    if math.prod(shape) != 1:
        raise ValueError(f"loss returned a tensor of shape {shape}; expected one number, the batch's mean")
    return float(loss.detach() if hasattr(loss, "detach") else loss)


def checked_gradient(loss: Any, where: str) -> float:
    """Return the one number a loss holds; raise a ValueError unless it is finite and a gradient passes through it."""
    value = one_number(loss)
    if not math.isfinite(value):
        raise ValueError(f"the loss {where} is {value}; expected a finite number")
    if not getattr(loss, "requires_grad", False):
        raise ValueError(f"no gradient passes through the loss {where}; expected what torch computes from the outputs")
    return value


def _count_correct(outputs: Any, targets: torch.Tensor) -> float:
    """Return how many rows of `outputs` are largest at their target; NaN where that has no meaning."""
    classes = _arrays.torch_of(outputs) is not None and outputs.ndim == 2 and outputs.is_floating_point()
    indices = targets.ndim == 1 and not targets.is_floating_point() and not targets.is_complex()
    if not classes or not indices or targets.dtype == require("torch", "torch").bool:
        return math.nan
    right = (outputs.argmax(dim=1) == targets) & ~outputs.isnan().any(dim=1)
    return float(right.sum())
