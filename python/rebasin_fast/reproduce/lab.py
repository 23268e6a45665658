"""What all experiments work with: the data, and networks trained on them, each trained once and then kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rebasin_fast._arrays import Parameters, to_numpy
from rebasin_fast._extras import require
from rebasin_fast._progress import Progress
from rebasin_fast.datasets import Dataset, load_dataset, split_batches
from rebasin_fast.reproduce.recipes import ALL, Part, Recipe
from rebasin_fast.reproduce.store import Store
from rebasin_fast.spec import PermutationSpec
from rebasin_fast.training import train

if TYPE_CHECKING:
    import torch

Batches = list[tuple[Any, Any]]

_MEMBERS = 1000
"""Seeds between those of one run and the next, so that no two runs share a network."""


class Lab:
    """Data and trained networks.

    Parameters
    ----------
    data : path or None
        The folder with the IDX files, see `rebasin_fast.datasets.load_idx_dataset`.
    store : Store
        Where trained networks are kept.
    seed : int
        Member m of the networks of a recipe trains with 1000 * `seed` + m.
    device : str
        Where networks and data are.
    progress : callable, optional
        ``progress("train", epochs done, epochs)``, and whatever the experiments report.
    """

    def __init__(
        self,
        data: str | Path | None,
        store: Store,
        *,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.seed = seed
        self.progress = progress
        self._data, self._store, self._device = data, store, device
        self._whole: dict[str, tuple[Dataset, str]] = {}
        self._datasets: dict[tuple[str, int, int | None], Dataset] = {}

    def fingerprint(self, name: str) -> str:
        """Return a digest of all examples of a data set, which is loaded for that.

        Raises
        ------
        FileNotFoundError, ValueError
            The data are not there, or broken.
        """
        return self._load(name)[1]

    def dataset(self, recipe: Recipe) -> Dataset:
        """Return the examples of a recipe, on the device."""
        key = (recipe.dataset, recipe.pool, recipe.examples)
        if key not in self._datasets:
            whole = self._load(recipe.dataset)[0]
            if recipe.examples is not None:
                whole = _sample(whole, recipe.examples, self.seed)
            self._datasets[key] = _on_device(_pooled(whole, recipe.pool), self._device)
        return self._datasets[key]

    def batches(self, recipe: Recipe, split: str, *, at_most: int | None = None, skip: int = 0) -> Batches:
        """Return examples of the "train" or "test" part in batches of 1000; of the training part in random order.

        Parameters
        ----------
        recipe : Recipe
        split : "train" or "test"
        at_most, skip : int, optional
            So many of them, after so many others: two calls that do not overlap give different examples.
        """
        dataset = self.dataset(recipe)
        if split == "test":
            return split_batches(dataset.test_x, dataset.test_y)
        order = np.random.default_rng([self.seed, 1]).permutation(len(dataset.train_x))
        chosen = require("torch", "torch").from_numpy(order[skip:][:at_most]).to(self._device)
        return split_batches(dataset.train_x[chosen], dataset.train_y[chosen])

    def held_out(self, recipe: Recipe) -> tuple[Batches, Batches]:
        """Return training examples in two disjoint lists of batches: two thirds to learn from, one to choose by."""
        learn = len(self.dataset(recipe).train_x) * 2 // 3
        return self.batches(recipe, "train", at_most=learn), self.batches(recipe, "train", skip=learn)

    def spec(self, recipe: Recipe) -> PermutationSpec:
        """Return the spec of a recipe's network."""
        return recipe.network.spec(*self._shape(recipe))

    def model(self, recipe: Recipe) -> torch.nn.Module:
        """Return a network of a recipe, untrained, on the device."""
        return recipe.network.build(*self._shape(recipe)).to(self._device)

    def trained(self, recipe: Recipe, member: int, *, part: Part = ALL, epoch: int | None = None) -> Parameters:
        """Return the state dict of a trained network, on the device; trained now if it is not in the store.

        Parameters
        ----------
        recipe : Recipe
        member : int
            Networks of different members differ in their first parameters and in the order of the examples.
        part : Part, optional
            Which examples it is trained on.
        epoch : int, optional
            One of the recipe's snapshots; by default the last epoch.
        """
        asked = recipe.epochs if epoch is None else epoch
        kept = sorted({*recipe.snapshots, recipe.epochs})
        if asked not in kept:
            raise ValueError(f"epoch is {asked}; expected one of {kept}, after which the network is kept")
        name = f"{recipe.dataset}-{recipe.network.kind}-{recipe.network.width:g}-{member}"
        if not self._store.has_network(name, self._key(recipe, member, part, asked)):
            self._train(name, recipe, member, part, kept)
        params = self._store.network(name, self._key(recipe, member, part, asked))
        return {key: tensor.to(self._device) for key, tensor in params.items()}

    def _train(self, name: str, recipe: Recipe, member: int, part: Part, kept: list[int]) -> None:
        def keep(epoch: int, model: torch.nn.Module) -> None:
            if epoch in kept:
                self._store.keep_network(name, self._key(recipe, member, part, epoch), model.state_dict())

        unfinished = self._store.unfinished(
            name, {**self._key(recipe, member, part, recipe.epochs), "epochs": recipe.epochs, "kept": kept}
        )
        state = unfinished.load()
        before = [] if state is None else [epoch for epoch in kept if epoch <= len(state["losses"])]
        if not all(self._store.has_network(name, self._key(recipe, member, part, epoch)) for epoch in before):
            state = None  # somebody has removed what was kept on the way
        train(
            lambda: self.model(recipe),
            self._part(self.dataset(recipe), part),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            optimizer=recipe.optimizer,
            schedule=recipe.schedule,
            weight_decay=recipe.weight_decay,
            max_gradient_norm=recipe.max_gradient_norm,
            seed=_MEMBERS * self.seed + member,
            after_epoch=keep,
            keep_state=unfinished.keep,
            state=state,
            progress=self.progress,
        )
        unfinished.discard()

    def _key(self, recipe: Recipe, member: int, part: Part, epoch: int) -> Mapping[str, Any]:
        return {
            "recipe": recipe.key(epoch),
            "part": asdict(part),
            "seed": self.seed,
            "member": member,
            "data": self.fingerprint(recipe.dataset),
        }

    def _part(self, dataset: Dataset, part: Part) -> Dataset:
        count = len(dataset.train_y)
        if part.kind == "half":
            order = np.random.default_rng([self.seed, 2, part.index]).permutation(count)
            return _selected(dataset, np.sort(order[: count // 2]))
        if part.kind == "labels":
            return _selected(
                dataset, biased_side(to_numpy(dataset.train_y), dataset.num_classes, part.index, self.seed)
            )
        return dataset

    def _shape(self, recipe: Recipe) -> tuple[int, int]:
        dataset = self.dataset(recipe)
        return dataset.train_x.shape[1], dataset.num_classes

    def _load(self, name: str) -> tuple[Dataset, str]:
        if name not in self._whole:
            dataset = load_dataset(name, self._data)
            digest = hashlib.sha256()
            for tensor in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y):
                digest.update(to_numpy(tensor).data)
            self._whole[name] = dataset, digest.hexdigest()
        return self._whole[name]


def biased_side(labels: Any, classes: int, side: int, seed: int) -> Any:
    """Return the indices of the examples on one side of the paper's biased split.

    Side 0 has 20 % of the examples of each class in the lower half of the classes, and 80 % of each in the upper half;
    side 1 has the others.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    classes : int
        Number of classes.
    side : int
        0 or 1.
    seed : int
        Draws which examples of a class are on which side.

    Returns
    -------
    ndarray of int64
        Ascending. The two sides are disjoint, and all examples together.

    Examples
    --------
    >>> biased_side(np.array([0] * 5 + [1] * 5), 2, 0, seed=0).shape
    (5,)
    """
    rng = np.random.default_rng([seed, 3])
    chosen = []
    for label in range(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        cut = round((0.2 if label < classes // 2 else 0.8) * len(members))
        chosen.append(members[:cut] if side == 0 else members[cut:])
    return np.sort(np.concatenate(chosen))


def _selected(dataset: Dataset, indices: Any) -> Dataset:
    chosen = require("torch", "torch").from_numpy(indices).to(dataset.train_y.device)
    return replace(dataset, train_x=dataset.train_x[chosen], train_y=dataset.train_y[chosen])


def _sample(dataset: Dataset, examples: int, seed: int) -> Dataset:
    """Return so many of the training examples, and half as many of the others."""
    rng = np.random.default_rng(seed)
    train, test = (
        require("torch", "torch").from_numpy(np.sort(rng.permutation(len(labels))[:count]))
        for labels, count in ((dataset.train_y, examples), (dataset.test_y, max(1, examples // 2)))
    )
    return replace(
        dataset,
        train_x=dataset.train_x[train],
        train_y=dataset.train_y[train],
        test_x=dataset.test_x[test],
        test_y=dataset.test_y[test],
    )


def _pooled(dataset: Dataset, size: int) -> Dataset:
    if size == 1:
        return dataset
    side = math.isqrt(dataset.train_x.shape[1])

    def pool(x: Any) -> Any:
        pooling = require("torch", "torch").nn.functional.avg_pool2d
        return pooling(x.unflatten(1, (1, side, side)), size).flatten(1)

    return replace(dataset, train_x=pool(dataset.train_x), test_x=pool(dataset.test_x))


def _on_device(dataset: Dataset, device: str) -> Dataset:
    parts = {name: getattr(dataset, name).to(device) for name in ("train_x", "train_y", "test_x", "test_y")}
    return replace(dataset, **parts)
