"""Activation matching: align the hidden units of one network to another's by what they do on data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rebasin_fast._arrays import (
    Array,
    Index,
    IndexArray,
    Parameters,
    cells,
    index_beside,
    index_to_numpy,
    numbers,
    readable,
    total,
)
from rebasin_fast._distributed import Ranks
from rebasin_fast._extras import require
from rebasin_fast._gradients import GradientMoments, require_finite
from rebasin_fast._modules import call, in_mode, inputs_of, removed_afterwards, state_for
from rebasin_fast._moments import CrossMoments
from rebasin_fast._nested_assignment import family_of, solve_nested
from rebasin_fast._progress import Progress
from rebasin_fast.evaluate import Loss, pair_of
from rebasin_fast.layout import Structure
from rebasin_fast.operator_sites import OperatorSite, TracedSites, watch_operators
from rebasin_fast.prove import few_examples, holds_examples, require_proof
from rebasin_fast.sites import ActivationSite, Sites, bare_groups, require_sites, sites_by_group, watch
from rebasin_fast.spec import PermutationSpec

if TYPE_CHECKING:
    import torch

Similarity: TypeAlias = Literal["inner", "correlation"]

Site: TypeAlias = ActivationSite | OperatorSite


@dataclass(frozen=True, eq=False)
class ActivationMatching:
    """The outcome of `activation_matching`.

    Attributes
    ----------
    permutation : dict of str to ndarray of int64
        For every group the index array that aligns B to A; for `apply_permutation`.
    objective : dict of str to float
        For every group the sum of the similarities of the matched units: with "inner" the sum over all samples of
        <z_A, P z_B>, with "correlation" the sum over units and sites of their correlations, with a loss also of those
        of its gradients.
    sites : dict of str to tuple of ActivationSite and OperatorSite
        For every group where its units were looked at.
    samples : dict of str to int
        For every group how many samples were seen: examples times positions, summed over its sites.
    """

    permutation: dict[str, IndexArray]
    objective: dict[str, float]
    sites: Mapping[str, tuple[Site, ...]]
    samples: dict[str, int]


def activation_matching(
    spec: PermutationSpec,
    model: torch.nn.Module,
    params_a: Parameters,
    params_b: Parameters,
    batches: Iterable[Any],
    *,
    sites: Sites = "both",
    similarity: Similarity = "correlation",
    loss: Loss | None = None,
    process_group: Any = None,
    prove: bool = True,
    progress: Progress | None = None,
) -> ActivationMatching:
    r"""Find the permutation of B's hidden units that brings its activations closest to A's.

    For every group, with the activations Z (units by samples) of both networks on the same data, the permutation that
    minimises :math:`\sum_i \|z^A_i - P z^B_i\|^2`, which is the one that maximises :math:`\langle P, Z_A Z_B^T\rangle`:
    one linear assignment problem, independent of the other groups. A group and the units in its blocks (attention heads
    and the units of each) are assigned together, exactly. The products are summed in float64 batch by batch; no batch
    is kept, and memory does not grow with their number.

    Parameters
    ----------
    spec : PermutationSpec
        Which axes of which parameters move together.
    model : torch.nn.Module
        The architecture of both. It runs in evaluation mode, without gradients unless there is a `loss`, and is
        afterwards as it was: parameters, buffers, gradients, training flags, hooks.
    params_a, params_b : mapping of str to array
        State dicts of `model`: torch tensors or numpy arrays, on the model's device. Never modified.
    batches : iterable
        Inputs, or tuples that begin with them, such as (inputs, targets). Read once, on the model's device; the first
        axis of every tensor counts the examples.
    sites : "both", "input", "output" or mapping, default "both"
        Where a group's units are looked at. ``"input"``: what the next layers read, after the nonlinearity;
        ``"output"``: what its own layers write, before it; see `activation_sites`. Where a group has none of the one
        kind, the other is taken. Or for every group the names of modules whose output carries it, and `ActivationSite`
        objects. Several sites of a group are summed. Groups that have units in their blocks need none of their own.
    similarity : "correlation" or "inner", default "correlation"
        ``"correlation"``: Pearson's, summed over the sites of a group; a unit that never changes has none with any
        other. ``"inner"``: the uncentred inner product; with ``sites="input"`` it is the paper's.
    loss : callable, optional
        As in `evaluate`: (outputs, targets) to the mean loss over the batch, such as
        ``torch.nn.functional.cross_entropy``. Added to the correlations of the activations at every site are then those
        of the gradients of the loss with respect to them: units go together that also bring about the same. `batches`
        are (inputs, targets) then, and both networks run backwards, too. None: activations alone, as in the paper. At
        the tensors that only operators show (`OperatorSite`) activations alone count in any case.
    process_group : torch.distributed.ProcessGroup, optional
        Each rank passes its own share of the batches; all get the permutation that all batches together give, and
        the assignment problems are shared out. None: this process alone.
    prove : bool, default True
        Whether to try first, on a few examples, that permutations do not change what A computes: see
        `PermutationSpec.prove`.
    progress : callable, optional
        Called after each batch as ``progress("activation matching", done, total)``; total is 0 when `batches` has no
        length.

    Returns
    -------
    ActivationMatching
        Permutation, objective, sites and numbers of samples.

    Notes
    -----
    Found are sites of dense and convolutional layers, embeddings, norms and `torch.nn.MultiheadAttention`. For groups
    that none of these shows (query heads with shared keys, layers inside a recurrent module, experts in one array,
    layers of other kinds) the model is traced on the first batch, and a tensor that one of its operators makes is
    watched, see `OperatorSite`. Of a group without a site nothing is known, so it is an error.

    The batches should show all there is: with the first 10,000 images of a training set sorted by class the barrier
    was ten times that with 10,000 drawn at random. The defaults are those with the lowest barriers between pairs of
    MLPs (3 x 512 units) trained on Fashion-MNIST: median 0.012, and 0.021 by the paper's inner product.
    Covariances in place of correlations gave higher barriers.

    What lacks there is what a unit is used for: units that go together on the data may bring about different things.
    Over nine other such pairs (5 epochs, 10,000 of the training images, weight matching's barrier 0.016 in the median)
    activations alone ended above weight matching by 0.015 in the median and by 0.029 at worst, more than 0.02 in two
    pairs; with ``loss=torch.nn.functional.cross_entropy`` below it by 0.011 in the median, and above by 0.002 at worst.
    On five MNIST pairs (weight matching's barriers up to 0.012) activations alone were above it by 0.005 at worst, with
    the loss by 0.001. Without targets, what the networks answer may take their place: on the nine pairs ``lambda
    outputs, _: cross_entropy(outputs, outputs.argmax(1))`` was below by 0.006, and above by 0.006 at worst. A loss
    doubles the time: the networks run once more, and back.

    Raises
    ------
    TypeError
        An argument, or a batch, is of the wrong type.
    ValueError
        A state dict that fits neither `spec` nor `model`; sites that do not carry what they should; a group without a
        site; activations, a loss or gradients that are not finite; a loss that no gradient passes through, or beside
        inner products; no examples; a spec that is not one of `model`, naming the groups that change its outputs.
    ImportError
        Without torch.

    References
    ----------
    .. [1] S. K. Ainsworth, J. Hayase, S. Srinivasa (2023). Git Re-Basin: Merging Models modulo Permutation
       Symmetries. ICLR 2023, arXiv:2209.04836, section 3.1.
    .. [2] Y. Li, J. Yosinski, J. Clune, H. Lipson, J. Hopcroft (2016). Convergent Learning: Do different neural
       networks learn the same representations? ICLR 2016, arXiv:1511.07543 (correlation).

    The gradients beside the activations are this library's own addition.

    Examples
    --------
    >>> import torch
    >>> from rebasin_fast import activation_matching, apply_permutation, invert, mlp, random_permutation
    >>> from rebasin_fast.training import make_mlp
    >>> spec, model = mlp((4, 16, 3)), make_mlp((4, 16, 3))
    >>> a = model.state_dict()
    >>> planted = random_permutation(spec, seed=1)
    >>> found = activation_matching(spec, model, a, apply_permutation(spec, planted, a), [torch.randn(200, 4)])
    >>> bool((found.permutation["P_0"] == invert(planted)["P_0"]).all())
    True
    """
    torch = require("torch", "torch")
    if similarity not in ("inner", "correlation"):
        raise ValueError(f"similarity is {similarity!r}; expected 'inner' or 'correlation'")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is of type {type(loss).__name__}; expected a function of outputs and targets, or None")
    if loss is not None and similarity == "inner":
        raise ValueError(
            "a loss is given with similarity='inner'; expected 'correlation', as gradients differ in scale"
        )
    by_group: dict[str, tuple[Site, ...]] = {**sites_by_group(spec, model, sites)}
    spec.validate(params_a, "params_a", matching=False)
    spec.validate(params_b, "params_b", matching=False)
    states = [state_for(model, params_a, "params_a"), state_for(model, params_b, "params_b")]
    ranks = Ranks(process_group)
    structure = Structure(spec.group_sizes(params_a), spec.blocks)
    total = len(batches) if isinstance(batches, Sized) else 0
    remaining = enumerate(batches)
    waiting: list[tuple[int, Any]] = []  # the first; taken out again when their turn comes, as no batch is kept
    operators = _Operators(spec, model)

    def look() -> dict[str, tuple[Site, ...]] | None:
        for done, batch in remaining:
            waiting.append((done, batch))
            inputs = inputs_of(batch, done) if loss is None else pair_of(batch, done)[0]
            if not holds_examples(inputs):
                continue
            if prove:
                require_proof(spec, model, params_a, few_examples(inputs))
            return operators.completed(by_group, inputs) if isinstance(sites, str) else None
        return None

    found = ranks.together(look)
    if isinstance(sites, str):
        by_group = next((one for one in ranks.gather(found) if one is not None), by_group)  # alike on all ranks
        require_sites(spec, by_group)
    statistics = _Statistics(structure.sizes, by_group, similarity, states[0], operators)
    gradients = None if loss is None else GradientMoments(loss, structure.sizes, by_group, model, states)

    def see_all() -> None:
        with in_mode(model, training=False), torch.no_grad(), statistics.watching(model):
            for done, batch in chain(_taken(waiting), remaining):
                pair = None if gradients is None else pair_of(batch, done)
                statistics.see(model, states, inputs_of(batch, done))
                if gradients is not None and pair is not None:
                    gradients.see(*pair, done)
                if progress is not None:
                    progress("activation matching", done + 1, total)

    ranks.together(see_all)
    statistics.add_up(ranks)
    if gradients is not None:
        gradients.add_up(ranks)

    def similarity_of(group: str) -> Any:
        found = statistics.similarity(group)
        return readable(found if gradients is None else gradients.added_to(found, group))

    solved = _solve(structure, similarity_of, ranks)
    return ActivationMatching(
        {group: solved[group][0] for group in spec.groups},
        {group: solved[group][1] for group in spec.groups},
        by_group,
        {group: statistics.samples(group) for group in spec.groups},
    )


def _taken(waiting: list[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    while waiting:
        yield waiting.pop(0)


class _Operators:
    """Sites inside modules, for groups that hooks on modules do not show; one trace for every shape of the inputs."""

    def __init__(self, spec: PermutationSpec, model: torch.nn.Module) -> None:
        self._spec, self._model = spec, model
        self._found: dict[Any, TracedSites | None] = {}
        self._fits: dict[int, dict[OperatorSite, OperatorSite]] = {}  # by the id of a trace, which is kept above

    def completed(self, by_group: dict[str, tuple[Site, ...]], inputs: Any) -> dict[str, tuple[Site, ...]]:
        """Leave out sites with other groups' units on other axes; find others for groups without."""
        traced = self._traced(inputs)
        if traced is None:
            return by_group
        clear: dict[str, tuple[Site, ...]] = {}
        for group, sites in by_group.items():
            told = [traced.shown(site) if isinstance(site, ActivationSite) else site for site in sites]
            clear[group] = tuple(site for site in told if site is not None)
        bare = bare_groups(self._spec, clear)
        found = traced.find(bare, inputs) if bare else {}
        return clear | {group: found.get(group) or by_group[group] for group in bare}

    def fitting(self, sites: Iterable[OperatorSite], inputs: Any) -> dict[OperatorSite, OperatorSite]:
        """Return the sites as they lie for inputs that may have another shape."""
        wanted = {site.where: site for site in sites}
        traced = self._traced(inputs) if wanted else None
        if traced is None:
            return {}
        if id(traced) not in self._fits:
            found = traced.find([site.group for site in wanted.values()], inputs)
            self._fits[id(traced)] = {
                wanted[s.where]: s for several in found.values() for s in several if s.where in wanted
            }
        return self._fits[id(traced)]

    def _traced(self, inputs: Any) -> TracedSites | None:
        torch = require("torch", "torch")
        tensors = inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]
        key = tuple((name, tuple(t.shape), t.dtype) for name, t in tensors if isinstance(t, torch.Tensor))
        if key not in self._found:
            try:
                self._found[key] = TracedSites(self._spec, self._model, inputs)
            except ValueError:  # no trace: the modules are all there is
                self._found[key] = None
        return self._found[key]


class _Statistics:
    """The cross-moments of all groups: one matrix a group for inner products, one a site for correlations."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        by_group: Mapping[str, tuple[Site, ...]],
        similarity: Similarity,
        state: Mapping[str, Any],
        operators: _Operators,
    ) -> None:
        device = next(iter(state.values())).device
        self._sizes, self._by_group, self._similarity = sizes, by_group, similarity
        self._moments: dict[Site, CrossMoments] = {}
        for group, sites in by_group.items():
            one = CrossMoments(sizes[group], device)
            for site in sites:
                # Uncentred products of several tensors are one sum; correlations need each site's own variances.
                self._moments[site] = one if similarity == "inner" else CrossMoments(sizes[group], device)
        self._seen_in_a: dict[Site, deque[Any]] = {site: deque() for site in self._moments}
        self._first: bool | None = None  # None: neither network runs, what passes is a trial
        self._operators = operators
        self._inside = [site for site in self._moments if isinstance(site, OperatorSite)]
        self._fitting: Mapping[OperatorSite, OperatorSite] = {}

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Have hooks on the model, and on its operators where there are sites of them."""
        sites = [site for site in self._moments if isinstance(site, ActivationSite)]
        with removed_afterwards(watch(model, sites, self._see_tensor)):
            yield

    def see(self, model: torch.nn.Module, states: Sequence[Mapping[str, Any]], inputs: Any) -> None:
        """Run both networks on one batch and take in what passes the sites."""
        self._fitting = self._operators.fitting(self._inside, inputs)
        with watch_operators(model, self._inside, self._see_tensor) if self._inside else nullcontext():
            for first, state in zip((True, False), states, strict=True):
                self._first = first
                call(model, state, inputs)
        self._first = None
        for site, left in self._seen_in_a.items():
            if left:
                raise ValueError(f"the {site} passed by more often in A than in B; expected equally often")

    def _see_tensor(self, site: Site, tensor: Any) -> None:
        if self._first is None:
            return
        now = self._fitting.get(site, site) if isinstance(site, OperatorSite) else site
        samples = now.samples(tensor, self._sizes[site.group])
        if self._first:
            # A copy: the module after this one may work in place.
            self._seen_in_a[site].append(samples.clone())
        elif not self._seen_in_a[site]:
            raise ValueError(f"the {site} passed by more often in B than in A; expected equally often")
        else:
            self._moments[site].update(self._seen_in_a[site].popleft(), samples)

    def add_up(self, ranks: Ranks) -> None:
        """Take in what every other rank has seen."""
        for moments in dict.fromkeys(self._moments.values()):
            moments.add_up(ranks)
        silent = [group for group, sites in self._by_group.items() if sites and self.samples(group) == 0]
        if silent:
            raise ValueError(f"batches gave no samples of the groups {silent}; expected at least one example")

    def samples(self, group: str) -> int:
        return sum(moments.count for moments in self._of(group))

    def similarity(self, group: str) -> Any:
        """Return the matrix of how well every unit of A goes with every unit of B; zeros without a site."""
        if not self._by_group[group]:
            return np.zeros((self._sizes[group],) * 2)
        inner = self._similarity == "inner"
        similarity = sum(moments.inner() if inner else moments.correlation() for moments in self._of(group))
        require_finite(similarity, f"the activations of group {group!r}")
        return similarity

    def _of(self, group: str) -> list[CrossMoments]:
        return list(dict.fromkeys(self._moments[site] for site in self._by_group[group]))


def _solved(structure: Structure, root: str, similarity: dict[str, Array]) -> dict[str, Index]:
    """Return permutations in kind, solved where the similarities lie."""
    found = solve_nested(structure, root, similarity)
    return {group: index_beside(order, similarity[group]) for group, order in found.items()}


def _solve(
    structure: Structure, similarity_of: Callable[[str], Array], ranks: Ranks
) -> dict[str, tuple[IndexArray, float]]:
    """Solve each assignment problem, groups with those in their blocks, on one of the ranks; bring them together."""
    own: dict[str, tuple[IndexArray, float]] = {}
    roots = [group for group in structure.sizes if not isinstance(structure.blocks.get(group), str)]
    for root in roots[ranks.rank :: ranks.size]:
        similarity = {group: similarity_of(group) for group in family_of(structure, root)}
        for group, permutation in _solved(structure, root, similarity).items():
            (matched,) = numbers(total(cells(similarity[group], permutation)))
            own[group] = index_to_numpy(permutation), matched
    return {group: answer for part in ranks.gather(own) for group, answer in part.items()}
