"""Gradients of a loss at the sites of activation matching: what units bring about, beside what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rebasin_fast._distributed import Ranks
from rebasin_fast._extras import require
from rebasin_fast._modules import call, removed_afterwards
from rebasin_fast._moments import CrossMoments
from rebasin_fast.evaluate import Loss, checked_gradient
from rebasin_fast.sites import ActivationSite, watch

if TYPE_CHECKING:
    import torch

_STEEPEST = 2.0**15
"""float16 holds no number of 2**16 or more: with so many examples the rest of the factor comes afterwards."""

Gradients: TypeAlias = dict[ActivationSite, list[Any]]
"""For every site the gradients at the tensors that passed it, one for each time; None where there is none."""


class GradientMoments:
    """The cross-moments of the gradients of a loss with respect to what passes the sites of two networks.

    The networks run once more for it: with a graph, torch may choose other operators than those that are watched.

    Parameters
    ----------
    loss : callable
        (outputs, targets) to the mean loss over the batch.
    sizes : mapping of str to int
        Units of every group.
    by_group : mapping of str to iterable of sites
        Where; `OperatorSite` objects, and sites whose tensors the loss does not depend on, count for nothing.
    model : torch.nn.Module
        The architecture.
    states : sequence of two mappings of str to tensor
        What stands in for its parameters and buffers.
    """

    def __init__(
        self,
        loss: Loss,
        sizes: Mapping[str, int],
        by_group: Mapping[str, Iterable[Any]],
        model: torch.nn.Module,
        states: Sequence[Mapping[str, Any]],
    ) -> None:
        self._loss, self._sizes, self._model = loss, sizes, model
        self._states = states
        device = next(iter(states[0].values())).device
        sites = [site for of_group in by_group.values() for site in of_group if isinstance(site, ActivationSite)]
        self._moments = {site: CrossMoments(sizes[site.group], device) for site in sites}

    def see(self, inputs: Any, targets: Any, number: int) -> None:
        """Go through both networks and back, on batch `number`, and take in the gradients."""
        if not len(targets):
            return  # a mean over no examples is no number
        of_a, of_b = (self._back(state, inputs, targets, number) for state in self._states)
        for site, moments in self._moments.items():
            for a, b in zip(of_a[site], of_b[site], strict=True):  # as often: so it was without gradients
                if a is not None or b is not None:
                    # What one of the networks alone depends on has no effect in the other.
                    moments.update(b.new_zeros(b.shape) if a is None else a, a.new_zeros(a.shape) if b is None else b)

    def add_up(self, ranks: Ranks) -> None:
        """Take in what every other rank has seen."""
        for moments in self._moments.values():
            moments.add_up(ranks)

    def added_to(self, similarity: Any, group: str) -> Any:
        """Return a similarity matrix of a group's units with the correlations of its gradients added."""
        for site, moments in self._moments.items():
            if site.group == group:
                similarity = similarity + moments.correlation()
        require_finite(similarity, f"the gradients of the loss in group {group!r}")
        return similarity

    def _back(self, state: Mapping[str, Any], inputs: Any, targets: Any, number: int) -> Gradients:
        torch = require("torch", "torch")
        passed: list[tuple[ActivationSite, Any]] = []

        def see(site: ActivationSite, tensor: Any) -> None:
            # Not the tensor: the module after this one may work in place, and make it stand for something else.
            edge = torch.autograd.graph.get_gradient_edge(tensor) if tensor.requires_grad else None
            passed.append((site, edge))

        with torch.inference_mode(False), torch.enable_grad():
            with removed_afterwards(watch(self._model, self._moments, see)):
                outputs = call(self._model, _differentiable(self._model, state), inputs)
            loss = self._loss(outputs, targets)
        checked_gradient(loss, f"of batch {number}")
        edges = [edge for _, edge in passed if edge is not None]
        gradients = iter(_gradients(loss, edges, len(targets)))
        found: Gradients = {site: [] for site in self._moments}
        for site, edge in passed:
            gradient = None if edge is None else next(gradients)
            found[site].append(None if gradient is None else site.samples(gradient, self._sizes[site.group]))
        return found


def require_finite(similarity: Any, what: str) -> None:
    """Raise a ValueError if a matrix that was made from `what` holds NaN or infinity."""
    if not bool((abs(similarity) < float("inf")).all()):
        raise ValueError(f"{what} hold NaN or infinity; expected finite numbers")


def _differentiable(model: torch.nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same memory, the parameters under tensors that a gradient passes through; buffers have none."""
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: tensor.detach().requires_grad_(name in learned and tensor.is_floating_point())
        for name, tensor in state.items()
    }


def _gradients(loss: Any, edges: list[Any], examples: int) -> tuple[Any, ...]:
    """Return the gradients of the loss summed over the examples: those of its mean hang on the batch's length."""
    if not edges:
        return ()
    factor = min(float(examples), _STEEPEST)
    torch = require("torch", "torch")
    found = torch.autograd.grad(loss, edges, loss.new_full(loss.shape, factor), allow_unused=True)
    return tuple(None if one is None else one * (examples / factor) for one in found)
