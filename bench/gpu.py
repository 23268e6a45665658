"""Assignment on a GPU: costs already on the device, the certificate included, every answer checked first.

    python bench/gpu.py
    python bench/gpu.py --sizes 16384,32768 --families uniform,lowrank16 --factored 50000x64 --json OUT
    python bench/gpu.py --device cpu --sizes 256 --batches 20x16 --factored 300x8     # the script itself, without a GPU

Sizes beyond `--structured-up-to` are for uniform and unrelated costs alone. Where there is an aim for an H100 it stands
beside the time. What a device has no memory for is said to be so.

An answer is checked on the device with nothing of the solver's: the duals must be feasible for every cell and prove the
cost, and the columns must be a permutation. Times are medians of wall-clock time from call to answer, the stream waited
for on both sides. Costs that are inner products are given as factors; where it fits, beside that the time of making
their float32 matrix and solving it. Peers (see gpu_peers.py) are asked beside us up to `--peers-up-to` rows; one whose
answer is worse is said to be wrong, and not timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from arguments import add_json, add_json_folder, families, names, positive_int, positive_ints
from environment import environment, named_after, write_json
from families import make
from gpu_peers import peers
from gpu_peers import why_wrong as peer_wrong
from rebasin_fast import solve_assignment, solve_assignment_batch, solve_assignment_factored

_ON_DEVICE = ("uniform", "unrelated", "lowrank16", "euclidean")
"""Families that the device draws itself: no time goes into bringing 4 GiB there."""

_UNSTRUCTURED = ("uniform", "unrelated")

_MATRIX_UP_TO = 20_000

_AIMS = {
    ("uniform", 16384): 0.15,
    ("unrelated", 16384): 0.15,
    ("uniform", 32768): 0.6,
    ("unrelated", 32768): 0.6,
    ("lowrank16", 16384): 0.6,
    ("euclidean", 16384): 0.6,
    (208, 300): 3e-3,
    (4096, 32): 0.5e-3,
}
"""Seconds on an H100, costs already there: by family and rows, or by problems and rows of each."""

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


def why_wrong(rows_of: Callable[[int, int], torch.Tensor], answer: Any) -> str | None:
    """Say why an answer is not proven optimal by its own duals; None when it is.

    `rows_of(start, stop)` are those rows of the costs in float64.
    """
    columns, u, v = answer.col_ind, answer.row_duals, answer.col_duals
    n = len(columns)
    if not torch.equal(columns.sort().values, torch.arange(n, device=columns.device)):
        return "no permutation"
    violation = total = magnitude = 0.0
    for start in range(0, n, 1024):
        cost = rows_of(start, min(start + 1024, n))
        chosen = cost.gather(1, columns[start : start + 1024, None])
        total, magnitude = total + float(chosen.sum()), magnitude + float(chosen.abs().sum())
        violation = max(violation, float((u[start : start + 1024, None] + v - cost).max()))
    scale = magnitude + float(u.abs().sum() + v.abs().sum())
    gap = total - float(u.sum() + v.sum())
    if violation * n > _RELATIVE * scale or gap > _RELATIVE * scale:
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


def large(family: str, n: int, device: torch.device, repeats: int, peers_up_to: int) -> dict[str, Any]:
    """Check and time one matrix."""
    cost = draw(family, n, device, seed=0)
    given = cost if device.type == "cuda" else cost.numpy()
    answer = _as_torch(solve_assignment(given))
    wrong = why_wrong(lambda start, stop: cost[start:stop].double(), answer)
    found: dict[str, Any] = {"family": family, "n": n, "wrong": wrong}
    if wrong is None:
        found |= _times(lambda: solve_assignment(given), device, repeats)
        found |= {"row_scans": answer.stats.row_scans, "augmentations": answer.stats.augmentations}
        found["pass_seconds"] = statistics.median(seconds(lambda: cost.min(), device, repeats))
        if n <= peers_up_to:
            optimum = cost[answer.row_ind, answer.col_ind].double().sum()
            found["peers"] = dict(_peers(cost[None], optimum[None], device, repeats))
    return found


def factored(kind: str, n: int, d: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Check and time one problem whose costs are inner products, of which no matrix is made."""
    generator = torch.Generator(device).manual_seed(2)
    a, b = torch.randn(2, n, d, generator=generator, device=device)
    if kind == "planted":
        b = (a + 3.0 * b)[torch.randperm(n, generator=generator, device=device)]
    given = (a, b) if device.type == "cuda" else (a.numpy(), b.numpy())
    answer = _as_torch(solve_assignment_factored(*given, maximize=True))
    wrong = why_wrong(lambda start, stop: -(a[start:stop].double() @ b.double().T), _negated(answer))
    found: dict[str, Any] = {"family": f"factored, {kind}", "n": n, "d": d, "wrong": wrong}
    if wrong is None:
        found |= _times(lambda: solve_assignment_factored(*given, maximize=True), device, repeats)
        if n <= _MATRIX_UP_TO:
            made = seconds(lambda: solve_assignment(given[0] @ given[1].T, maximize=True), device, repeats)
            found["matrix_seconds"] = statistics.median(made)
    return found


def _times(call: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, Any]:
    samples = seconds(call, device, repeats)
    return {"seconds": statistics.median(samples), "samples": samples}


def _negated(answer: Any) -> Any:
    """Return the answer to a problem of similarities as one to that of costs."""
    from dataclasses import replace

    return replace(answer, row_duals=-answer.row_duals, col_duals=-answer.col_duals)


def _as_torch(answer: Any) -> Any:
    from dataclasses import replace

    names_ = ("row_ind", "col_ind", "row_duals", "col_duals")
    return replace(answer, **{name: torch.as_tensor(getattr(answer, name)) for name in names_})


def batch(problems: int, n: int, device: torch.device, repeats: int, peers_up_to: int) -> dict[str, Any]:
    """Check and time a batch."""
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
        found |= _times(lambda: solve_assignment_batch(given), device, repeats)
        if n <= peers_up_to:
            found["peers"] = dict(_peers(costs, chosen.sum(1), device, repeats))
    return found


def no_memory(error: BaseException) -> bool:
    """Say whether torch or we found no memory on the device."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def tried(measure: Callable[..., dict[str, Any]], row: dict[str, Any], *arguments: Any) -> dict[str, Any]:
    """Return what was measured, or the row that says that there is no memory for it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return measure(*arguments)
    except (MemoryError, RuntimeError) as error:
        if not no_memory(error):
            raise
        return {**row, "wrong": None, "seconds": None, "no_memory": str(error).splitlines()[0]}


def _peers(
    costs: torch.Tensor, optimum: torch.Tensor, device: torch.device, repeats: int
) -> Iterator[tuple[str, float | str]]:
    """Yield for every peer the median of its times, or what is wrong with it."""
    for name, solve in peers(device).items():
        try:
            wrong = peer_wrong(costs, solve(costs), optimum)
        except Exception as error:  # one that cannot is no reason to end
            wrong = f"{type(error).__name__}: {error}"
        yield name, wrong or statistics.median(seconds(lambda solve=solve: solve(costs), device, min(repeats, 3)))  # type: ignore[misc]


def cases(text: str) -> list[tuple[int, int]]:
    """Parse ``"4096x32,208x300"``."""
    return [(positive_int(a), positive_int(b)) for a, _, b in (case.partition("x") for case in names(text))]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 if an answer was wrong."""
    options = parse(arguments)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(name)
    out = named_after(options.json_folder, "gpu-lap", name) if options.json_folder else options.json
    rows = []
    for row in measured(options, device):
        rows.append(row)
        print(_line(row), flush=True)
        if out:
            write_json(out, environment(device=name, torch=torch.__version__, results=rows))
    return int(any(row["wrong"] for row in rows))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=positive_ints, default=[2048, 16384, 32768])
    parser.add_argument("--structured-up-to", type=positive_int, default=16384, help="rows (default: %(default)s)")
    parser.add_argument("--families", type=families, default=list(_ON_DEVICE))
    parser.add_argument("--batches", type=cases, default=[(4096, 32), (208, 300), (64, 512)])
    parser.add_argument(
        "--factored", type=cases, default=[(16384, 64), (50000, 64)], help="n x d (default: %(default)s)"
    )
    parser.add_argument("--peers-up-to", type=int, default=2048, help="rows; 0: no peers (default: %(default)s)")
    parser.add_argument("--repeats", type=positive_int, default=7)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu (default: %(default)s)")
    add_json(parser)
    add_json_folder(parser)
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row for everything asked for."""
    common = device, options.repeats, options.peers_up_to
    for problems, n in options.batches:
        yield tried(batch, {"problems": problems, "n": n}, problems, n, *common)
    for n in options.sizes:
        for family in options.families:
            if n <= options.structured_up_to or family in _UNSTRUCTURED:
                yield tried(large, {"family": family, "n": n}, family, n, *common)
    for n, d in options.factored:
        for kind in ("unrelated", "planted"):
            row = {"family": f"factored, {kind}", "n": n, "d": d}
            yield tried(factored, row, kind, n, d, device, options.repeats)


def _line(row: dict[str, Any]) -> str:
    what = f"{row['family']:20}" if "family" in row else f"{row['problems']:6} problems of  "
    size = f"{row['n']:6}" + (f" x {row['d']:3}" if "d" in row else " " * 6)
    if row["wrong"]:
        return f"{what} {size}  WRONG: {row['wrong']}"
    if "no_memory" in row:
        return f"{what} {size}  no memory: {row['no_memory']}"
    told = [f"{1e3 * row['seconds']:10.3f} ms"]
    if aim := _AIMS.get((row.get("family", row.get("problems")), row["n"])):
        told.append(f"(aim on an H100: {1e3 * aim:g} ms)")
    if "pass_seconds" in row:
        told.append(f"{row['seconds'] / row['pass_seconds']:8.1f} passes")
    if "matrix_seconds" in row:
        told.append(f"as a matrix {1e3 * row['matrix_seconds']:.3f} ms")
    for name, found in row.get("peers", {}).items():
        told.append(f"{name} " + (found if isinstance(found, str) else f"{1e3 * found:.3f} ms"))
    return f"{what} {size}  " + "  ".join(told)


if __name__ == "__main__":
    raise SystemExit(main())
