"""How far a classifier's confidence can be trusted, and the ensemble as the baseline to compare a merged model with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rebasin_fast._arrays import Parameters, is_array, to_numpy
from rebasin_fast._extras import require
from rebasin_fast._modules import call, in_mode, state_for
from rebasin_fast._progress import Progress
from rebasin_fast.evaluate import pair_of
from rebasin_fast.spec import positive_integer

if TYPE_CHECKING:
    import torch

FloatArray: TypeAlias = npt.NDArray[np.float64]

Average: TypeAlias = Literal["probabilities", "logits"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one classifier, or an ensemble, says about a set of examples.

    Attributes
    ----------
    probabilities : ndarray of float64, shape (N, C)
        For every example the probability of each class.
    targets : ndarray of int64, shape (N,)
        The classes they are of.
    """

    probabilities: FloatArray
    targets: npt.NDArray[np.int64]

    @property
    def loss(self) -> float:
        """Mean negative logarithm of the probability of the right class; infinite where one is 0."""
        with np.errstate(divide="ignore"):
            return float(-np.log(self.probabilities[np.arange(len(self.targets)), self.targets]).mean())

    @property
    def accuracy(self) -> float:
        """Fraction of examples whose most probable class is right."""
        return float((self.probabilities.argmax(axis=1) == self.targets).mean())


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: how often the classifier is right, by how sure it is.

    Attributes
    ----------
    edges : ndarray of float64, shape (bins + 1,)
        Confidences at which the bins begin and end: bin k holds those above ``edges[k]``, up to ``edges[k + 1]``.
    count : ndarray of int64, shape (bins,)
        Examples in each bin.
    confidence, accuracy : ndarray of float64, shape (bins,)
        Mean confidence (the probability of the predicted class), and fraction of examples predicted rightly; NaN in
        empty bins.
    error : float
        Expected calibration error: the mean distance of accuracy and confidence, each bin weighted by its examples.
    largest_error : float
        The largest of these differences.
    """

    edges: FloatArray
    count: npt.NDArray[np.int64]
    confidence: FloatArray
    accuracy: FloatArray
    error: float
    largest_error: float


def reliability_diagram(probabilities: Any, targets: Any, *, bins: int = 15) -> Reliability:
    """Sort predictions by confidence into equally wide bins, and compare confidence with accuracy in each.

    Parameters
    ----------
    probabilities : array of floats, shape (N, C)
        For every example the probability of each class; numpy array or torch tensor.
    targets : array of integers, shape (N,)
        The right classes.
    bins : int, default 15
        Equally wide bins of the confidences from 0 to 1.

    Returns
    -------
    Reliability
        The diagram's data, and the expected calibration error.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes do not agree, there are no examples, rows are no probabilities, or targets are no classes.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017). On Calibration of Modern Neural Networks. ICML 2017,
       arXiv:1706.04599.
    .. [2] M. P. Naeini, G. F. Cooper, M. Hauskrecht (2015). Obtaining Well Calibrated Probabilities Using Bayesian
       Binning. AAAI 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import reliability_diagram
    >>> sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    >>> found = reliability_diagram(sure, np.array([0, 1, 1, 1]), bins=2)
    >>> found.count, round(found.error, 3)
    (array([0, 4]), 0.075)
    """
    rows, classes = _checked(probabilities, targets)
    bins = positive_integer(bins, "bins")
    edges = np.linspace(0.0, 1.0, bins + 1)
    confidence, right = rows.max(axis=1), rows.argmax(axis=1) == classes
    # Bins are open below and closed above, so that complete confidence has a place; probabilities may be a rounding
    # error above 1.
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, accuracy = (np.bincount(place, weights=values, minlength=bins) / count for values in (confidence, right))
    apart = np.abs(accuracy - mean)
    held = count > 0
    return Reliability(
        edges,
        count,
        mean,
        accuracy,
        error=float((apart[held] * count[held]).sum() / len(classes)),
        largest_error=float(apart[held].max()),
    )


def expected_calibration_error(probabilities: Any, targets: Any, *, bins: int = 15) -> float:
    """Return the expected calibration error alone; arguments and errors as `reliability_diagram`.

    Examples
    --------
    >>> import numpy as np
    >>> from rebasin_fast import expected_calibration_error
    >>> expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    0.5
    """
    return reliability_diagram(probabilities, targets, bins=bins).error


def predict(
    model: torch.nn.Module, params: Parameters, batches: Iterable[Any], *, progress: Progress | None = None
) -> Predictions:
    """Return the class probabilities a model gives with `params`; see `ensemble`, of which this is the simplest case.

    Examples
    --------
    >>> import torch
    >>> from rebasin_fast import predict
    >>> batch = torch.zeros(1, 2), torch.tensor([0])
    >>> predict(torch.nn.Identity(), {}, [batch]).probabilities
    array([[0.5, 0.5]])
    """
    return ensemble(model, [params], batches, progress=progress)


def ensemble(
    model: torch.nn.Module,
    members: Sequence[Parameters],
    batches: Iterable[Any],
    *,
    average: Average = "probabilities",
    progress: Progress | None = None,
) -> Predictions:
    """Return what an ensemble says: the mean of its members' predictions, at the price of running them all.

    Parameters
    ----------
    model : torch.nn.Module
        The architecture of all members: inputs to logits of shape (N, C). Runs in evaluation mode; afterwards as it
        was.
    members : sequence of mappings of str to array
        State dicts of `model`. Never modified.
    batches : iterable of (inputs, targets)
        Targets are class indices of shape (N,). Read once.
    average : "probabilities" or "logits", default "probabilities"
        What is averaged; the mean of the logits is turned into probabilities afterwards.
    progress : callable, optional
        Called after each batch as ``progress("predict", done, total)``; total is 0 when `batches` has no length.

    Returns
    -------
    Predictions
        Probabilities and targets of all examples, with loss and accuracy; for `reliability_diagram`.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type; a member that does not fit `model`; batches that are no pairs, or hold no
        examples; outputs or targets of other shapes.

    References
    ----------
    .. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and Scalable Predictive Uncertainty Estimation
       using Deep Ensembles. NeurIPS 2017, arXiv:1612.01474.

    Examples
    --------
    >>> import torch
    >>> from rebasin_fast import ensemble
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> one, other = {"weight": torch.eye(2)}, {"weight": torch.eye(2).flip(0)}
    >>> batch = torch.eye(2), torch.tensor([0, 1])
    >>> ensemble(model, [one, other], [batch]).probabilities.round(3)
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    torch = require("torch", "torch")
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average is {average!r}; expected 'probabilities' or 'logits'")
    if isinstance(members, Mapping) or not isinstance(members, Sequence):
        raise TypeError(f"members is of type {type(members).__name__}; expected a sequence of state dicts")
    if not members:
        raise ValueError("members is empty; expected at least one state dict")
    states = [state_for(model, params, f"members[{i}]") for i, params in enumerate(members)]
    probabilities, classes = [], []
    with in_mode(model, training=False), torch.no_grad():
        for done, (inputs, targets) in enumerate(_pairs(batches, progress)):
            total: Any = 0
            for state in states:
                logits = _logits(call(model, state, inputs), targets, done)
                total = total + (logits if average == "logits" else logits.softmax(dim=1))
            mean = total / len(states)
            probabilities.append(to_numpy(mean.softmax(dim=1) if average == "logits" else mean))
            classes.append(to_numpy(targets))
    if not sum(map(len, classes)):
        raise ValueError("batches holds no examples; expected at least one")
    rows, targets = _checked(np.concatenate(probabilities), np.concatenate(classes))
    return Predictions(rows, targets)


def _pairs(batches: Iterable[Any], progress: Progress | None) -> Iterator[tuple[Any, Any]]:
    total = len(batches) if isinstance(batches, Sized) else 0
    for done, batch in enumerate(batches):
        yield pair_of(batch, done)
        if progress is not None:
            progress("predict", done + 1, total)


def _logits(outputs: Any, targets: Any, number: int) -> Any:
    shape = tuple(getattr(outputs, "shape", ()))
    if len(shape) != 2 or shape[0] != len(targets) or targets.ndim != 1:
        raise ValueError(
            f"batch {number} has targets of shape {tuple(targets.shape)} and gives outputs of shape {shape}; "
            "expected class indices of shape (N,) and logits of shape (N, C)"
        )
    return outputs.double()


def _checked(probabilities: Any, targets: Any) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    for name, array in (("probabilities", probabilities), ("targets", targets)):
        if not is_array(array):
            raise TypeError(f"{name} is of type {type(array).__name__}; expected a numpy array or a torch tensor")
    rows, classes = to_numpy(probabilities).astype(np.float64), to_numpy(targets)
    if classes.dtype.kind not in "iu":
        raise TypeError(f"targets has dtype {classes.dtype}; expected integers, the indices of classes")
    if rows.ndim != 2 or classes.shape != rows.shape[:1] or rows.size == 0:
        raise ValueError(
            f"probabilities has shape {rows.shape} and targets {classes.shape}; expected (N, C) and (N,), N > 0"
        )
    # bfloat16 holds a probability to three digits.
    if not (rows >= 0).all() or not np.allclose(rows.sum(axis=1), 1.0, atol=0.02):
        raise ValueError(
            "probabilities has a row that is negative, NaN or does not add up to 1; expected probabilities"
        )
    if classes.min() < 0 or classes.max() >= rows.shape[1]:
        raise ValueError(f"targets are from {classes.min()} to {classes.max()}; expected 0 to {rows.shape[1] - 1}")
    return rows, classes.astype(np.int64)
