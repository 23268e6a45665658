"""Run an experiment of the paper: measure its cases one after the other, keep each, and write table and figure."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rebasin_fast._extras import require
from rebasin_fast._files import check_writable
from rebasin_fast._progress import Progress
from rebasin_fast._version import __version__
from rebasin_fast.reproduce.experiment import Experiment
from rebasin_fast.reproduce.experiments.beyond import BEYOND
from rebasin_fast.reproduce.experiments.emergence import EMERGENCE
from rebasin_fast.reproduce.experiments.lmc import LMC
from rebasin_fast.reproduce.experiments.merge_many import MERGE_MANY
from rebasin_fast.reproduce.experiments.split_data import SPLIT_DATA
from rebasin_fast.reproduce.experiments.symmetries import SYMMETRIES
from rebasin_fast.reproduce.experiments.width import WIDTH
from rebasin_fast.reproduce.lab import Lab
from rebasin_fast.reproduce.report import Report, files_of, write
from rebasin_fast.reproduce.scales import SCALES
from rebasin_fast.reproduce.store import Store
from rebasin_fast.training import check_training_settings

EXPERIMENTS: dict[str, Experiment[Any]] = {
    experiment.name: experiment for experiment in (LMC, EMERGENCE, WIDTH, SPLIT_DATA, MERGE_MANY, SYMMETRIES, BEYOND)
}
"""The experiments by name, in the order of the paper."""


def reproduce(
    name: str,
    *,
    data: str | Path | None = None,
    out: str | Path,
    scale: str = "small",
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Reproduce an experiment of the paper (Ainsworth et al. 2023), and write its table and figure.

    Trained networks go into ``out/models`` and measured cases into ``out/cases`` as soon as they are finished, and once
    a minute the state of a training. A run that was ended is continued by the same call, with the same numbers as if it
    had not been; experiments with the same `out` share networks. What was kept is used only for the same settings,
    seed, data and version of this package.

    Parameters
    ----------
    name : str
        ``"lmc"``, ``"emergence"``, ``"width"``, ``"split-data"``, ``"merge-many"``, ``"symmetries"`` or ``"beyond"``.
    data : path, optional
        The folder with the IDX files of MNIST and Fashion-MNIST, see `rebasin_fast.datasets.load_idx_dataset`; only
        ``"symmetries"`` does without.
    out : path
        The folder for everything written: at the end ``NAME.csv``, ``NAME.md``, ``NAME.json``, ``NAME.png`` and
        ``NAME.svg``, all of them or none.
    scale : "smoke", "small" or "paper", default "small"
        Seconds; minutes on two cores; the full set-up of the paper, for a GPU.
    seed : int, default 0
        On one machine, with one number of threads, the same seed gives the same numbers.
    device : str, default "cpu"
        Where networks are trained and run, as torch names it. Networks and cases kept from another device are used.
    overwrite : bool, default False
        Whether table and figure of an earlier run may be replaced.
    progress : callable, optional
        ``progress(stage, done, total)``: the experiment's name with the cases done, "train" with the epochs of a
        network, and the stages of the longer methods.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        Unknown `name` or `scale`; a `device` that torch cannot use; a broken file among the data or what was kept.
    FileNotFoundError
        The data are not there; nothing has been written then.
    FileExistsError
        There are results of an earlier run, and `overwrite` is False.
    ImportError
        Without torch or matplotlib.

    References
    ----------
    S. K. Ainsworth, J. Hayase, S. Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023,
    arXiv:2209.04836.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = reproduce("symmetries", out=folder)
    >>> report.summary.beside[0].ours, report.summary.beside[0].paper
    (3498, 3498)
    """
    experiment = _known("name", name, EXPERIMENTS)
    cases = _known("scale", scale, {known: experiment.cases[known] for known in SCALES})
    check_training_settings(epochs=0, batch_size=1, lr=1.0, weight_decay=0.0, seed=seed)
    out = Path(out)
    check_writable(files_of(name, out), overwrite=overwrite)
    for module, extra in (("torch", "torch"), ("matplotlib", "plot")):
        require(module, extra)
    _check_device(device)
    store = Store(out)
    lab = Lab(data, store, seed=seed, device=device, progress=progress)
    # All data before any training: an hour's work is not to end with a file that is missing.
    data_of = {dataset: lab.fingerprint(dataset) for case in cases for dataset in case.datasets}
    measured = []
    for done, case in enumerate(cases):
        if progress is not None:
            progress(name, done, len(cases))
        key = {"case": asdict(case), "seed": seed, "data": [data_of[dataset] for dataset in case.datasets]}
        measured.append((case, store.numbers(name, key, partial(experiment.measure, lab, case))))
    if progress is not None:
        progress(name, len(cases), len(cases))
    numbers = [asdict(case) | found for case, found in measured]
    report = Report(
        name,
        experiment.title,
        scale,
        seed,
        _made_with(device),
        experiment.summarise(measured),
        numbers,
        partial(experiment.draw, measured),
    )
    write(report, out, overwrite=overwrite)
    return report


def _made_with(device: str) -> dict[str, str | int]:
    torch = require("torch", "torch")
    return {
        "rebasin_fast": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _check_device(device: str) -> None:
    torch = require("torch", "torch")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, not there, not compiled for
        raise ValueError(f"device is {device!r}, which torch cannot use: {str(error).splitlines()[0]}") from error


def _known(what: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}")
    return known[value]
