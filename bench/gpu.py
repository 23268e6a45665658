"""Assignment on a GPU: costs already on the device, the certificate included, every answer checked first.

    python bench/gpu.py
    python bench/gpu.py --sizes 16384,32768 --families uniform,lowrank16 --json OUT
    python bench/gpu.py --device cpu --sizes 256 --batches 20x16     # the script itself, without a GPU

An answer is checked on the device with nothing of the solver's: the duals must be feasible for every cell and prove the
cost, and the columns must be a permutation. Times are medians of wall-clock time from call to answer, the stream waited
for on both sides. torch-linear-assignment, if it is installed, is timed beside the batches, and checked as well.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from arguments import add_json, families, names, positive_int, positive_ints
from environment import environment, write_json
from families import make
from rebasin_fast import solve_assignment, solve_assignment_batch

_ON_DEVICE = ("uniform", "unrelated", "lowrank16", "euclidean")
"""Families that the device draws itself: no time goes into bringing 4 GiB there."""

# float64 rounding in sums of n reduced costs; costs are float32, duals float64.
_RELATIVE = 1e-11


def draw(family: str, n: int, device: torch.device, seed: int) -> torch.Tensor:
    """Return an (n, n) float32 cost matrix on the device."""
    generator = torch.Generator(device).manual_seed(seed)

    def random(*shape: int, normal: bool = True) -> torch.Tensor:
        function = torch.randn if normal else torch.rand
        return function(*shape, generator=generator, device=device)

    if family == "uniform":
        return random(n, n, normal=False)
    if family in ("unrelated", "lowrank16"):
        d = 16 if family == "lowrank16" else n
        return -(random(n, d) @ random(n, d).T)
    if family == "euclidean":
        return torch.cdist(random(n, 2, normal=False), random(n, 2, normal=False))
    return torch.from_numpy(make(family, n, "float32", seed)).to(device)


def why_wrong(cost: torch.Tensor, answer: Any) -> str | None:
    """Say why an answer is not proven optimal by its own duals; None when it is."""
    columns = answer.col_ind
    if not torch.equal(columns.sort().values, torch.arange(len(columns), device=columns.device)):
        return "no permutation"
    u, v = answer.row_duals, answer.col_duals
    chosen = cost[answer.row_ind, columns].double()
    scale = float(chosen.abs().sum() + u.abs().sum() + v.abs().sum())
    violation = 0.0
    for start in range(0, len(cost), 1024):
        slack = cost[start : start + 1024].double() - u[start : start + 1024, None] - v
        violation = max(violation, -float(slack.min()))
    gap = float(chosen.sum() - u.sum() - v.sum())
    if violation * len(cost) > _RELATIVE * scale or gap > _RELATIVE * scale:
        return f"gap {gap:.3g}, violation {violation:.3g}"
    return None


def seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Return wall-clock times of a call, the device idle before and after."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    samples = []
    for _ in range(repeats):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        samples.append(time.perf_counter() - begin)
    return samples


def large(family: str, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Check and time one matrix."""
    cost = draw(family, n, device, seed=0)
    answer = solve_assignment(cost if device.type == "cuda" else cost.numpy())
    if device.type == "cpu":
        answer = _as_torch(answer)
    found: dict[str, Any] = {"family": family, "n": n, "wrong": why_wrong(cost, answer)}
    if found["wrong"] is None:
        given = cost if device.type == "cuda" else cost.numpy()
        samples = seconds(lambda: solve_assignment(given), device, repeats)
        found |= {"seconds": statistics.median(samples), "samples": samples}
        found |= {"row_scans": answer.stats.row_scans, "augmentations": answer.stats.augmentations}
        found["pass_seconds"] = statistics.median(seconds(lambda: cost.min(), device, repeats))
    return found


def _as_torch(answer: Any) -> Any:
    from dataclasses import replace

    names_ = ("row_ind", "col_ind", "row_duals", "col_duals")
    return replace(answer, **{name: torch.from_numpy(getattr(answer, name)) for name in names_})


def batch(problems: int, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Check and time a batch, and torch-linear-assignment's where that is installed."""
    generator = torch.Generator(device).manual_seed(1)
    costs = torch.rand(problems, n, n, generator=generator, device=device)
    given = costs if device.type == "cuda" else costs.numpy()
    answer = solve_assignment_batch(given, with_duals=True)
    columns, u, v = (torch.as_tensor(x, device=device) for x in (answer.col_ind, answer.row_duals, answer.col_duals))
    chosen = costs.gather(2, columns[:, :, None])[:, :, 0].double()
    slack = (costs.double() - u[:, :, None] - v[:, None, :]).amin(dim=(1, 2))
    gap = chosen.sum(1) - u.sum(1) - v.sum(1)
    good = bool((columns.sort(1).values == torch.arange(n, device=device)).all())
    good &= float(gap.max()) < 1e-9 * n and float(slack.min()) > -1e-12 * n
    found: dict[str, Any] = {"problems": problems, "n": n, "wrong": None if good else "duals prove nothing"}
    if good:
        samples = seconds(lambda: solve_assignment_batch(given), device, repeats)
        found |= {"seconds": statistics.median(samples), "samples": samples}
        found |= _peer(costs, chosen.sum(1), device, repeats)
    return found


def _peer(costs: torch.Tensor, optimum: torch.Tensor, device: torch.device, repeats: int) -> dict[str, Any]:
    try:
        from torch_linear_assignment import batch_linear_assignment
    except ImportError:
        return {}
    columns = batch_linear_assignment(costs)
    total = costs.gather(2, columns[:, :, None])[:, :, 0].double().sum(1)
    if bool(((total - optimum).abs() > 1e-6 * optimum.abs()).any()):
        return {"torch_linear_assignment": "WRONG"}
    samples = seconds(lambda: batch_linear_assignment(costs), device, repeats)
    return {"torch_linear_assignment": statistics.median(samples)}


def cases(text: str) -> list[tuple[int, int]]:
    """Parse ``"4096x32,208x300"``."""
    return [(positive_int(a), positive_int(b)) for a, _, b in (case.partition("x") for case in names(text))]


def main() -> int:
    """Run what the command line asks for; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=positive_ints, default=[2048, 8192, 16384])
    parser.add_argument("--families", type=families, default=list(_ON_DEVICE))
    parser.add_argument("--batches", type=cases, default=[(4096, 32), (208, 300), (64, 512)])
    parser.add_argument("--repeats", type=positive_int, default=7)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu (default: %(default)s)")
    add_json(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(name)
    rows = []
    for family in options.families:
        for n in options.sizes:
            rows.append(row := large(family, n, device, options.repeats))
            print(f"{family:12} {n:6}  " + _told(row))
    for problems, n in options.batches:
        rows.append(row := batch(problems, n, device, options.repeats))
        peer = row.get("torch_linear_assignment")
        print(f"{problems:6} problems of {n:4}  {_told(row)}" + (f"  torch-linear-assignment {peer}" if peer else ""))
    if options.json:
        write_json(options.json, environment(device=name, torch=torch.__version__, results=rows))
    return int(any(row["wrong"] for row in rows))


def _told(row: dict[str, Any]) -> str:
    if row["wrong"]:
        return f"WRONG: {row['wrong']}"
    passes = f"  {row['seconds'] / row['pass_seconds']:8.1f} passes" if "pass_seconds" in row else ""
    return f"{1e3 * row['seconds']:10.3f} ms{passes}"


if __name__ == "__main__":
    raise SystemExit(main())
