"""Gradients of a loss at the sites of activation matching: what units bring about, beside what they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from rebasin_fast._extras import require
from rebasin_fast._moments import CrossMoments
from rebasin_fast.evaluate import Loss, one_number
from rebasin_fast.sites import ActivationSite

if TYPE_CHECKING:
    import torch

_STEEPEST = 2.0**15
"""float16 holds no number of 2**16 or more: with so many examples the rest of the factor comes afterwards."""

Gradients: TypeAlias = dict[ActivationSite, list[Any]]
"""For every site the gradients at the tensors that passed it, one for each time; None where there is none."""


class GradientMoments:
    """The cross-moments of the gradients of a loss with respect to what passes the sites of two networks.

    Parameters
    ----------
    loss : callable
        (outputs, targets) to the mean loss over the batch.
    sizes : mapping of str to int
        Units of every group.
    sites : iterable of ActivationSite
        Where; a site whose tensors the loss does not depend on counts for nothing.
    device : torch.device
        Where the sums lie.

    Attributes
    ----------
    moments : dict of ActivationSite to CrossMoments
        The sums so far.
    """

    def __init__(
        self, loss: Loss, sizes: Mapping[str, int], sites: Iterable[ActivationSite], device: torch.device
    ) -> None:
        self._loss, self._sizes = loss, sizes
        self.moments = {site: CrossMoments(sizes[site.group], device) for site in sites}
        self._passed: list[tuple[ActivationSite, Any]] = []  # in the network that runs, with a place in its graph

    def differentiable(self, model: torch.nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same memory, the parameters under tensors that a gradient passes through; buffers have none."""
        learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return {
            name: tensor.detach().requires_grad_(name in learned and tensor.is_floating_point())
            for name, tensor in state.items()
        }

    def see(self, site: ActivationSite, tensor: Any) -> None:
        """Take note of a tensor that passes a site."""
        if site in self.moments:
            torch = require("torch", "torch")
            # Not the tensor: the module after this one may work in place, and make it stand for something else.
            edge = torch.autograd.graph.get_gradient_edge(tensor) if tensor.requires_grad else None
            self._passed.append((site, edge))

    def back(self, outputs: Any, targets: Any, number: int) -> Gradients:
        """Go back through the network that has just run on batch `number`."""
        passed, self._passed = self._passed, []
        found: Gradients = {site: [] for site in self.moments}
        edges = [edge for _, edge in passed if edge is not None]
        gradients = iter(self._gradients(self._checked(outputs, targets, number), edges, len(targets)))
        for site, edge in passed:
            gradient = None if edge is None else next(gradients)
            found[site].append(None if gradient is None else site.samples(gradient, self._sizes[site.group]))
        return found

    def update(self, of_a: Gradients, of_b: Gradients) -> None:
        """Take in one batch; what only one of the networks depends on has no effect in the other."""
        for site, moments in self.moments.items():
            for a, b in zip(of_a[site], of_b[site], strict=True):
                if a is not None or b is not None:
                    moments.update(b.new_zeros(b.shape) if a is None else a, a.new_zeros(a.shape) if b is None else b)

    def _checked(self, outputs: Any, targets: Any, number: int) -> Any:
        loss = self._loss(outputs, targets)
        value = one_number(loss)
        if not math.isfinite(value):
            raise ValueError(f"the loss of batch {number} is {value}; expected a finite number")
        if not getattr(loss, "requires_grad", False):
            raise ValueError(
                f"no gradient passes through the loss of batch {number}; expected what torch computes from the outputs"
            )
        return loss

    def _gradients(self, loss: Any, edges: list[Any], examples: int) -> tuple[Any, ...]:
        """Return the gradients of the loss summed over the examples: those of its mean hang on the batch's length."""
        if not edges:
            return ()
        factor = min(float(examples), _STEEPEST)
        torch = require("torch", "torch")
        found = torch.autograd.grad(loss, edges, loss.new_full(loss.shape, factor), allow_unused=True)
        return tuple(None if one is None else one * (examples / factor) for one in found)
