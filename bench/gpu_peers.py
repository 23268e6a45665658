"""Other solvers for costs on a GPU, where they are installed: each takes a stack of cost matrices, as torch has it.

SciPy, which is always there, works on the CPU: that it has to be given the costs first counts as its time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch

Peer = Callable[[torch.Tensor], torch.Tensor]
"""Costs (B, n, n), float32, and the columns of the rows, (B, n)."""


def scipy(costs: torch.Tensor) -> torch.Tensor:
    """Solve one after the other on the CPU."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(np.stack([linear_sum_assignment(cost)[1] for cost in costs.cpu().numpy()]))


def torch_linear_assignment(costs: torch.Tensor) -> torch.Tensor:
    """Solve all at once: https://github.com/ivan-chai/torch-linear-assignment."""
    from torch_linear_assignment import batch_linear_assignment

    columns: torch.Tensor = batch_linear_assignment(costs)
    return columns


def cugraph(costs: torch.Tensor) -> torch.Tensor:
    """Solve one after the other on the device, by RAPIDS' Hungarian algorithm (Date & Nagi 2016)."""
    import cudf
    import cugraph
    import cupy

    n = costs.shape[1]
    found = [cugraph.dense_hungarian(cudf.Series(cupy.from_dlpack(cost.flatten())), n, n)[1] for cost in costs]
    return torch.stack([torch.from_dlpack(columns.values) for columns in found])


def peers(device: torch.device) -> dict[str, Peer]:
    """Return those that can be asked on a device, by name."""
    found: dict[str, Peer] = {"SciPy": scipy}
    if importlib.util.find_spec("torch_linear_assignment") is not None:
        found["torch-linear-assignment"] = torch_linear_assignment
    if device.type == "cuda" and importlib.util.find_spec("cugraph") is not None:
        found["cugraph"] = cugraph
    return found


def why_wrong(costs: torch.Tensor, columns: torch.Tensor, optimum: torch.Tensor) -> str | None:
    """Say why columns are no assignments as good as the optimum of each matrix, (B,); None when they are."""
    columns = columns.to(device=costs.device, dtype=torch.int64)
    if not torch.equal(columns.sort(1).values, torch.arange(costs.shape[1], device=costs.device).expand_as(columns)):
        return "no permutation"
    chosen = costs.gather(2, columns[:, :, None])[:, :, 0].double()
    above = (chosen.sum(1) - optimum) / chosen.abs().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    worst = float(above.max())
    return f"{worst:.2g} above the optimum" if worst > 1e-6 else None
