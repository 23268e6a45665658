"""Training of small networks: repeatable from a seed, whatever the state of the global random generators."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rebasin_fast._extras import require
from rebasin_fast._progress import Progress

if TYPE_CHECKING:
    import torch

    from rebasin_fast.datasets import Dataset

Optimizer: TypeAlias = Literal["adam", "sgd"]
Schedule: TypeAlias = Literal["constant", "warmup_cosine"]

_WARMUP = 0.05
"""The share of all steps in which the learning rate of "warmup_cosine" rises."""


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained model.

    Attributes
    ----------
    model : torch.nn.Module
        In training mode, as it left the last step.
    losses : tuple of float
        Mean training loss of each epoch, measured on the way.
    seed : int
        What it was trained with.
    """

    model: torch.nn.Module
    losses: tuple[float, ...]
    seed: int


def make_mlp(widths: Sequence[int]) -> torch.nn.Module:
    """Build a multilayer perceptron with ReLU between its layers.

    Parameters
    ----------
    widths : sequence of int
        Features of the input, units of each hidden layer, outputs. The layers are called ``layer0``, ``layer1``, ...,
        as `rebasin_fast.architectures.mlp` expects.

    Raises
    ------
    ValueError
        Fewer than two widths, or one below 1.

    Examples
    --------
    >>> list(make_mlp((4, 3, 2)).state_dict())
    ['layer0.weight', 'layer0.bias', 'layer1.weight', 'layer1.bias']
    """
    nn = require("torch", "torch").nn
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths is {tuple(widths)}; expected at least two numbers, each 1 or more")
    model = nn.Sequential()
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        if index:
            model.add_module(f"relu{index - 1}", nn.ReLU())
        model.add_module(f"layer{index}", nn.Linear(inputs, outputs))
    return model


def train(
    make_model: Callable[[], torch.nn.Module],
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 100,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: Optimizer = "adam",
    schedule: Schedule = "constant",
    max_gradient_norm: float | None = None,
    seed: int = 0,
    after_epoch: Callable[[int, torch.nn.Module], None] | None = None,
    keep_state: Callable[[Callable[[], dict[str, Any]]], None] | None = None,
    state: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a classifier on the cross-entropy, with Adam (Kingma & Ba 2015) or stochastic gradient descent.

    The seed determines the initial parameters, the order of the examples and whatever else is random in the model
    (dropout). Torch's global generator is as before afterwards. On one machine, with one number of torch threads, the
    result is the same to the bit.

    Parameters
    ----------
    make_model : callable
        Builds the untrained model, on the device of the data; it maps (N, features) to logits (N, classes).
    dataset : Dataset
        Its training part is used, and moved to no other device.
    epochs : int
        Passes over the examples, in a new order each; 0 returns the untrained model.
    batch_size : int, default 100
        Examples in a step.
    lr, weight_decay : float, default 1e-3 and 0
        The optimiser's learning rate, and its L2 penalty.
    optimizer : "adam" or "sgd", default "adam"
        ``"sgd"`` has a momentum of 0.9.
    schedule : "constant" or "warmup_cosine", default "constant"
        ``"warmup_cosine"``: the learning rate rises linearly to `lr` in the first 5 % of all steps, and falls to 0
        along a cosine in the others (Loshchilov & Hutter 2017).
    max_gradient_norm : float, optional
        Gradients with a larger Euclidean norm, over all parameters, are shortened to it (Pascanu et al. 2013): deep
        networks without residual connections can lose all their units to one large step early in training.
    seed : int, default 0
        0 or more.
    after_epoch : callable, optional
        Called as ``after_epoch(done, model)`` before the first epoch, with 0, and after each; it is not to change the
        model.
    keep_state : callable, optional
        Called after each epoch but the last, with a function that returns all a later call needs to go on from there:
        tensors, numbers, texts and containers of these, of the size of the model and its optimiser.
    state : mapping, optional
        What that function returned, in a call with the same settings and data. Training goes on from there, to the
        same bits; `after_epoch` sees the epochs that follow alone.
    progress : callable, optional
        Called after each epoch as ``progress("train", done, epochs)``.

    Returns
    -------
    TrainingResult

    Raises
    ------
    TypeError, ValueError
        A setting of the wrong type or out of its range; ValueError also when the training diverges, that is when an
        epoch's mean loss is NaN or infinite.
    ImportError
        Without torch.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.
    I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, arXiv:1608.03983.
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
    arXiv:1211.5063.
    """
    torch = require("torch", "torch")
    check_training_settings(epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, seed=seed)
    _check_choice("optimizer", optimizer, ("adam", "sgd"))
    _check_choice("schedule", schedule, ("constant", "warmup_cosine"))
    if max_gradient_norm is not None and not (math.isfinite(max_gradient_norm) and max_gradient_norm > 0):
        raise ValueError(f"max_gradient_norm is {max_gradient_norm}; expected a finite number above 0, or None")
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        # Two streams, so that the order of the examples does not depend on how much the model draws.
        seed_model, seed_order = np.random.SeedSequence(seed).generate_state(2).tolist()
        torch.default_generator.manual_seed(seed_model)
        order = torch.Generator().manual_seed(seed_order)
        model = make_model().train()
        update = _optimizer(optimizer, model, lr, weight_decay)
        follow = _schedule(schedule, update, epochs * math.ceil(len(dataset.train_x) / batch_size))
        step = _Step(model, update, follow, max_gradient_norm)
        if state is not None:
            losses += step.go_on_from(state, order)
        elif after_epoch is not None:
            after_epoch(0, model)
        for epoch in range(len(losses), epochs):
            losses.append(_train_epoch(step, dataset, order, batch_size))
            if not math.isfinite(losses[-1]):
                raise ValueError(f"training diverged: mean loss {losses[-1]} in epoch {epoch + 1} with lr = {lr}")
            if after_epoch is not None:
                after_epoch(epoch + 1, model)
            if keep_state is not None and epoch + 1 < epochs:
                keep_state(lambda: step.state(order) | {"losses": list(losses)})
            if progress is not None:
                progress("train", epoch + 1, epochs)
    return TrainingResult(model, tuple(losses), seed)


def check_training_settings(*, epochs: int, batch_size: int, lr: float, weight_decay: float, seed: int) -> None:
    """Raise TypeError or ValueError, naming the setting, when `train` cannot work with one of them."""
    for name, count, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        try:
            number = operator.index(count)
        except TypeError:
            raise TypeError(f"{name} is {count!r}; expected an integer") from None
        if number < least:
            raise ValueError(f"{name} is {number}; expected {least} or more")
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr is {lr}; expected a finite number above 0")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay is {weight_decay}; expected a finite number, 0 or more")


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")


def _optimizer(name: Optimizer, model: torch.nn.Module, lr: float, weight_decay: float) -> Any:
    optim = require("torch", "torch").optim
    if name == "adam":
        return optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    return optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay, momentum=0.9)


def _schedule(name: Schedule, optimizer: Any, steps: int) -> Any:
    """Return what is to take a step after each of the optimiser's, or None."""
    if name == "constant":
        return None
    warmup = max(1, round(_WARMUP * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2.0

    return require("torch", "torch").optim.lr_scheduler.LambdaLR(optimizer, factor)


@dataclass(frozen=True)
class _Step:
    """One step of the training."""

    model: torch.nn.Module
    optimizer: Any
    schedule: Any
    max_gradient_norm: float | None

    def __call__(self, x: Any, y: Any) -> Any:
        """Take it, and return the loss before it."""
        torch = require("torch", "torch")
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_gradient_norm)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return loss.detach()

    def state(self, order: Any) -> dict[str, Any]:
        """Return all that the next step depends on, `order` being the generator of the examples' order."""
        torch = require("torch", "torch")
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "order": order.get_state(),
            "random": torch.default_generator.get_state(),
        }

    def go_on_from(self, state: Mapping[str, Any], order: Any) -> list[float]:
        """Take up what `state` returned; return the losses of the epochs before."""
        torch = require("torch", "torch")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        order.set_state(state["order"])
        torch.default_generator.set_state(state["random"])
        return list(state["losses"])


def _train_epoch(step: _Step, dataset: Dataset, order: Any, batch_size: int) -> float:
    """Take one pass in an order drawn from the generator `order`; return the mean loss on the way."""
    torch = require("torch", "torch")
    x, y = dataset.train_x, dataset.train_y
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for batch in torch.randperm(len(x), generator=order).to(x.device).split(batch_size):
        total += step(x[batch], y[batch]) * len(batch)
    return float(total) / len(x)
