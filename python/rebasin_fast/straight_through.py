"""The straight-through estimator: learn the permutation at which the midpoint of two networks has the lowest loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rebasin_fast._arrays import Index, IndexArray, Parameters, index_to_numpy, is_finite, is_floating, widened
from rebasin_fast._extras import require
from rebasin_fast._modules import call, in_mode, state_for
from rebasin_fast._progress import Progress
from rebasin_fast._projection import MatchedAnew, Projection, projection_for
from rebasin_fast.evaluate import Loss, checked_gradient, cross_entropy, evaluate, pair_of
from rebasin_fast.permute import Permutation, identity_permutation, validate_permutation
from rebasin_fast.prove import few_examples, require_proof
from rebasin_fast.spec import PermutationSpec, positive_integer
from rebasin_fast.weight_matcher import check_integer
from rebasin_fast.weight_matching import weight_matching

if TYPE_CHECKING:
    import torch

OptimizerFactory: TypeAlias = Callable[[list[Any]], Any]
"""A list of tensors to a `torch.optim.Optimizer` of them."""


@dataclass(frozen=True)
class StraightThroughStats:
    """Where the time went.

    Attributes
    ----------
    steps, changes : int
        Steps taken, and how many of their projections differed from the one before.
    projection_seconds, total_seconds : float
        Time in projections, and in all.
    """

    steps: int
    changes: int
    projection_seconds: float
    total_seconds: float


@dataclass(frozen=True, eq=False)
class StraightThrough:
    """The outcome of `straight_through`.

    Attributes
    ----------
    permutation : dict of str to ndarray of int64
        The best permutation met, which aligns B to A; for `apply_permutation`.
    loss : float
        By which it was the best: of its midpoint on the held-out data, or on the batch of its step.
    step : int
        The step at which it was met; 0 is the first.
    losses : tuple of float
        The midpoint's loss at every step, on that step's batch.
    validation : tuple of float
        The midpoint's loss on the held-out data: at the first step, then after every epoch. Empty without them.
    stats : StraightThroughStats
        Steps and seconds.
    """

    permutation: dict[str, IndexArray]
    loss: float
    step: int
    losses: tuple[float, ...]
    validation: tuple[float, ...]
    stats: StraightThroughStats


def straight_through(
    spec: PermutationSpec,
    model: torch.nn.Module,
    params_a: Parameters,
    params_b: Parameters,
    batches: Iterable[Any],
    *,
    epochs: int = 10,
    optimizer: OptimizerFactory | None = None,
    loss: Loss | None = None,
    validation: Iterable[Any] | None = None,
    init: Literal["weight_matching", "identity"] | Permutation = "weight_matching",
    seed: int = 0,
    prove: bool = True,
    progress: Progress | None = None,
) -> StraightThrough:
    r"""Find the permutation of B's hidden units whose midpoint with A has the lowest loss.

    Minimises :math:`L(\tfrac12(\theta_A + \mathrm{proj}(\tilde\theta_B)))` over :math:`\tilde\theta_B`, which starts at
    :math:`\theta_A`. The projection is the permutation of B nearest to :math:`\tilde\theta_B`,
    :math:`\arg\max_\pi \langle\tilde\theta_B, \pi(\theta_B)\rangle`, found by weight matching from the permutation of
    the step before. The gradient passes through it as if it were the identity. The first permutation tried is the one
    that weight matching finds, so that with held-out data the answer is never worse than that one.

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together.
    model : torch.nn.Module
        The architecture. It runs in training mode (batch norm normalises by the batch, dropout drops), and is
        afterwards as it was.
    params_a, params_b : mapping of str to array
        State dicts of `model`: torch tensors or numpy arrays, on the model's device. Never modified.
    batches : iterable of (inputs, targets)
        Read anew in every epoch; a list in an order drawn from the seed. An iterator is read into a list first.
    epochs : int, default 10
        Passes over the batches.
    optimizer : callable, optional
        Makes the optimiser from a list of tensors, also one that asks for a closure (LBFGS); by default Adam with
        learning rate 0.001. The paper's, for 250 epochs:
        ``lambda tensors: torch.optim.SGD(tensors, lr=0.01, momentum=0.9)``.
    loss : callable, optional
        As in `evaluate`: (outputs, targets) to the mean loss over the batch.
    validation : iterable of (inputs, targets), optional
        Held-out data. The best permutation is the one with the lowest loss on them, looked at in the beginning and
        after every epoch; without them, the one with the lowest loss on the batch of its step.
    init : "weight_matching", "identity" or mapping of str to int64 array
        Where the first projection begins: at the answer of `weight_matching`, or as in the paper at the identity.
    seed : int, default 0
        Order of batches and visits, and what is random in the model. Torch's global generators are as before
        afterwards. On one machine with one number of torch threads the same seed gives the same answer.
    prove : bool, default True
        Whether to try first, on a few examples, that permutations do not change what A computes: see
        `PermutationSpec.prove`.
    progress : callable, optional
        ``progress("straight-through", done, total)`` after every step; total is 0 when `batches` has no length.

    Returns
    -------
    StraightThrough
        The best permutation, losses and stats.

    Notes
    -----
    Between two MLPs (3 x 512 units) trained on Fashion-MNIST, four epochs of batches of 1000 with Adam brought the
    barrier from weight matching's 0.0100 to 0.0007; in as many epochs the paper's optimiser moved no unit.

    Raises
    ------
    TypeError
        An argument, or a batch, is of the wrong type.
    ValueError
        A state dict that fits neither `spec` nor `model`, or holds NaN or infinity; no examples; a loss that is NaN or
        infinite, or that no gradient passes through; an option out of its range; a spec that is not one of `model`,
        naming the groups that change its outputs.
    ImportError
        Without torch.

    References
    ----------
    .. [1] S. K. Ainsworth, J. Hayase, S. Srinivasa (2023). Git Re-Basin: Merging Models modulo Permutation
       Symmetries. ICLR 2023, arXiv:2209.04836, section 3.3.
    .. [2] Y. Bengio, N. Leonard, A. Courville (2013). Estimating or Propagating Gradients Through Stochastic Neurons
       for Conditional Computation. arXiv:1308.3432.

    Examples
    --------
    >>> import torch
    >>> from rebasin_fast import apply_permutation, invert, mlp, random_permutation, straight_through
    >>> from rebasin_fast.training import make_mlp
    >>> spec, model = mlp((4, 16, 3)), make_mlp((4, 16, 3))
    >>> a = model.state_dict()
    >>> planted = random_permutation(spec, seed=1)
    >>> batch = torch.randn(100, 4), torch.randint(3, (100,))
    >>> found = straight_through(spec, model, a, apply_permutation(spec, planted, a), [batch], epochs=2)
    >>> bool((found.permutation["P_0"] == invert(planted)["P_0"]).all())
    True
    """
    began = time.perf_counter()
    torch = require("torch", "torch")
    _check_options(spec, epochs, seed)
    for name, given in (("optimizer", optimizer), ("loss", loss)):
        if given is not None and not callable(given):
            raise TypeError(f"{name} is of type {type(given).__name__}; expected a function, or None")
    a, b = (state_for(model, params, name) for params, name in ((params_a, "params_a"), (params_b, "params_b")))
    own_a, own_b = ({name: state[name] for name in params_a} for state in (a, b))
    start = _checked_start(spec, own_a, own_b, init, seed)
    batches = list(batches) if isinstance(batches, Iterator) else batches
    held_out = list(validation) if isinstance(validation, Iterator) else validation
    total = epochs * len(batches) if isinstance(batches, Sized) else 0
    rng = np.random.default_rng(seed)
    with in_mode(model, training=True), _seeded(torch, next(iter(a.values())).device, int(rng.integers(2**31))):
        projection = projection_for(spec, own_b, start, int(rng.integers(2**31)))
        search = _Search(spec, model, a, b, projection, loss)
        update = _made((optimizer or _adam)(list(search.free.values())))
        validated = [search.validate(held_out)] if held_out is not None else []
        for _ in range(epochs):
            for number, batch in _shuffled(batches, rng):
                if not len(pair_of(batch, number)[1]):
                    continue  # a mean over no examples is no number
                if prove and not search.losses:
                    require_proof(spec, model, own_a, few_examples(pair_of(batch, number)[0]))
                search.step(batch, number, update, keep=held_out is None)
                if progress is not None:
                    progress("straight-through", len(search.losses), total)
            if held_out is not None:
                validated.append(search.validate(held_out))
    if not search.losses:
        raise ValueError("batches holds no examples; expected at least one")
    stats = StraightThroughStats(
        len(search.losses), search.changes, search.projection_seconds, time.perf_counter() - began
    )
    best = {group: index_to_numpy(index) for group, index in search.best.items()}
    return StraightThrough(best, search.best_loss, search.best_step, tuple(search.losses), tuple(validated), stats)


@dataclass
class _Search:
    """The state of one search."""

    spec: PermutationSpec
    model: torch.nn.Module
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    projection: Projection | MatchedAnew
    loss: Loss | None
    free: dict[str, Any] = field(init=False)  # theta~_B
    losses: list[float] = field(default_factory=list)
    best: dict[str, Index] = field(default_factory=dict)
    best_loss: float = math.inf
    best_step: int = 0
    changes: int = 0
    projection_seconds: float = 0.0

    def __post_init__(self) -> None:
        trained = dict(self.model.named_parameters(remove_duplicate=False))
        self._wide_a = {name: widened(tensor) for name, tensor in self.a.items() if name in self.projection.permuted}
        self.free = {name: tensor.clone() for name, tensor in self._wide_a.items() if name in trained}
        self._project()
        self.changes = 0  # that was the first, which differs from none

    def step(self, batch: Any, number: int, update: Any, *, keep: bool) -> None:
        """Take one step: project, and move theta~_B down the gradient of the loss at the midpoint."""
        if self.losses:
            self._project()
        found = [self._differentiate(*pair_of(batch, number))]
        self.losses.append(float(found[0]))
        if keep:
            self._keep(self.losses[-1])

        def closure() -> Any:
            """Return the loss where theta~_B is now; optimisers such as LBFGS look at several points in a step."""
            if not found:
                self._project()
                found.append(self._differentiate(*pair_of(batch, number)))
            return found.pop()

        update.step(closure)

    def _differentiate(self, inputs: Any, targets: Any) -> Any:
        """Return the loss at the midpoint, and leave its gradient at theta~_B."""
        torch = require("torch", "torch")
        where = f"at step {len(self.losses)}"
        with torch.inference_mode(False), torch.enable_grad():
            middle = {name: self._middle(name).requires_grad_() for name in self.free}
            # Buffers such as running statistics are A's, copied by `state_for`: in training mode none is read.
            state = dict(self.a) | {name: tensor.to(self.a[name].dtype) for name, tensor in middle.items()}
            loss = (self.loss or cross_entropy)(call(self.model, state, inputs), targets)
        checked_gradient(loss, where)
        gradients = torch.autograd.grad(loss, list(middle.values()), allow_unused=True)
        for tensor, gradient in zip(self.free.values(), gradients, strict=True):
            # The midpoint takes half of the projection, through which the gradient passes unchanged.
            tensor.grad = None if gradient is None else gradient / 2
        return loss.detach()

    def validate(self, batches: Iterable[Any]) -> float:
        """Return the loss of the present midpoint on held-out data; remember its permutation if it is the best."""
        if self.losses:
            self._project()
        params = {name: self.a[name] for name in self.model.state_dict()}
        for name in self._wide_a:
            params[name] = self._middle(name).to(params[name].dtype)
        found = evaluate(self.model, params, batches, loss=self.loss).loss
        if not math.isfinite(found):
            raise ValueError(f"the loss on the held-out data is {found}; expected a finite number")
        self._keep(found)
        return found

    def _middle(self, name: str) -> Any:
        return (self._wide_a[name] + self.projection.permuted[name]).div_(2)

    def _keep(self, loss: float) -> None:
        if loss < self.best_loss or not self.best:
            self.best, self.best_loss = dict(self.projection.permutation), loss
            self.best_step = max(0, len(self.losses) - 1)

    def _project(self) -> None:
        began = time.perf_counter()
        # What no optimiser moves (parameters that are buffers in the model) stays where A has it.
        self.changes += self.projection.project(self._wide_a | self.free)
        self.projection_seconds += time.perf_counter() - began


def _made(optimizer: Any) -> Any:
    if not isinstance(optimizer, require("torch", "torch").optim.Optimizer):
        raise TypeError(f"optimizer returned a {type(optimizer).__name__}; expected a torch.optim.Optimizer")
    return optimizer


def _adam(tensors: list[Any]) -> Any:
    return require("torch", "torch").optim.Adam(tensors, lr=1e-3)


def _shuffled(batches: Iterable[Any], rng: np.random.Generator) -> Iterator[tuple[int, Any]]:
    """Go through the batches: those of a sequence in random order, others as they come."""
    if isinstance(batches, Sequence):
        for k in rng.permutation(len(batches)).tolist():
            yield k, batches[k]
    else:
        yield from enumerate(batches)


@contextmanager
def _seeded(torch: Any, device: Any, seed: int) -> Iterator[None]:
    """Seed torch's global generators, and put them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _checked_start(
    spec: PermutationSpec, a: Parameters, b: Parameters, init: Any, seed: int
) -> Mapping[str, IndexArray]:
    """Check the two networks against the spec and each other, and return the permutation to begin with."""
    spec.validate(a, "params_a", matching=False)
    spec.validate(b, "params_b", matching=False)
    for name, tensor in a.items():
        if b[name].dtype != tensor.dtype:
            raise ValueError(f"params_b[{name!r}] has dtype {b[name].dtype}; expected {tensor.dtype}, as in params_a")
        for label, value in (("params_a", tensor), ("params_b", b[name])):
            if is_floating(value) and not is_finite(value):
                raise ValueError(f"{label}[{name!r}] holds NaN or infinity; expected finite numbers")
    if isinstance(init, str):
        if init == "weight_matching":
            return weight_matching(spec, a, b, seed=seed).permutation
        if init != "identity":
            raise ValueError(f"init is {init!r}; expected 'weight_matching', 'identity' or a permutation")
        return identity_permutation(spec, a)
    validate_permutation(spec, init, a)
    found: Mapping[str, IndexArray] = init
    return found


def _check_options(spec: object, epochs: object, seed: object) -> None:
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec is of type {type(spec).__name__}; expected a PermutationSpec")
    positive_integer(epochs, "epochs")
    check_integer("seed", seed, 0)
