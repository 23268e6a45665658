"""Batches: ours against loops over the peers, and against lapx's own batch calls.

    python bench/batch.py
    python bench/batch.py --cases 4096x32,256x256 --dtypes float32 --threads 1,2 --json OUT

Every solver runs in a process of its own (lap and lapx share an import name), all are checked against SciPy's optimum
before anything is timed, and samples are taken in rounds, so that a noisy minute hits all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import peers
from arguments import add_json, names, positive_int, positive_ints
from checking import objective, why_invalid
from environment import caption, environment, write_json

Costs = npt.NDArray[Any]
Answers = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
SolveBatch = Callable[[Costs], Any]
"""Returns what the solver returns; `pairs` makes pairs of index arrays of it, outside the timing."""

_RELATIVE = {"float32": 1e-6, "float64": 1e-12}


def ours(threads: int) -> SolveBatch:
    from rebasin_fast import solve_assignment_batch

    return lambda costs: solve_assignment_batch(costs, threads=threads)


def our_loop() -> SolveBatch:
    from rebasin_fast import linear_sum_assignment

    return lambda costs: [linear_sum_assignment(cost) for cost in costs]


def loop_of(name: str) -> SolveBatch:
    solve = peers.SOLVERS[name].load(1)
    return lambda costs: [solve(cost) for cost in costs]


def lapx_batch(name: str, threads: int) -> SolveBatch:
    import lap

    function = partial(getattr(lap, f"{name}_batch"), return_cost=False, n_threads=threads)

    def solve(costs: Costs) -> Any:
        precision = {"prefer_float32": costs.dtype == np.float32} if name == "lapjvs" else {}
        return function(costs, **precision)

    return solve


def pairs(answer: Any) -> Answers:
    """Return (row_ind, col_ind) of every problem, from a loop's list or a batch call's rows and columns."""
    if isinstance(answer, list):
        return answer
    rows, cols = answer if isinstance(answer, tuple) else (answer.row_ind, answer.col_ind)
    return list(zip(rows, cols, strict=True))


def solvers(threads: list[int]) -> dict[str, tuple[str, Callable[[], SolveBatch]]]:
    """Return name -> (package, loader), ours first."""
    found: dict[str, tuple[str, Callable[[], SolveBatch]]] = {}
    for count in threads:
        found[f"rebasin_fast batch, {count} threads"] = (peers.OURS, partial(ours, count))
    found["rebasin_fast loop"] = (peers.OURS, our_loop)
    for name in ("scipy", "lap", "lapx.lapjvs", "lapx.lapjvr", "lapx.lapjvh", "lapjv"):
        found[f"{name} loop"] = (peers.SOLVERS[name].package, partial(loop_of, name))
    for name in ("lapjvx", "lapjvs", "lapjvr"):
        for count in threads:
            found[f"lapx {name}_batch, {count} threads"] = ("lapx", partial(lapx_batch, name, count))
    return found


def serve(package: str, load: Callable[[], SolveBatch], peers_dir: Path, costs: Costs, pipe: Any) -> None:
    """Answer once, then time a call whenever asked; both over the pipe."""
    try:
        peers.use_peer_folder(package, peers_dir)
        solve = load()
        pipe.send(pairs(solve(costs)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    while pipe.recv():
        start = time.perf_counter()
        solve(costs)
        pipe.send(time.perf_counter() - start)


def why_wrong(costs: Costs, answers: Answers | str, best: list[float]) -> str | None:
    if isinstance(answers, str):
        return answers
    for b, (cost, (rows, cols)) in enumerate(zip(costs, answers, strict=True)):
        if wrong := why_invalid(cost.shape, rows, cols):
            return f"problem {b}: {wrong}"
        if abs(objective(cost, rows, cols) - best[b]) > _RELATIVE[costs.dtype.name] * abs(best[b]):
            return f"problem {b}: objective {objective(cost, rows, cols):.9g}, optimum {best[b]:.9g}"
    return None


def measure(costs: Costs, threads: list[int], peers_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Return the samples of every solver whose answers are right, in seconds; say what is wrong with the others."""
    from scipy.optimize import linear_sum_assignment

    best = [objective(cost, *linear_sum_assignment(cost)) for cost in costs]
    context = multiprocessing.get_context("spawn")
    samples: dict[str, list[float]] = {}
    pipes, processes = {}, []
    for name, (package, load) in solvers(threads).items():
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(package, load, peers_dir, costs, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        try:
            wrong = why_wrong(costs, pipes[name].recv(), best)
        except EOFError:
            wrong = "ended without an answer"
        if wrong is None:
            samples[name] = []
        else:
            print(f"  {name}: not timed. {wrong}")
    for _ in range(rounds):
        for name, taken in samples.items():
            pipes[name].send(True)
            taken.append(pipes[name].recv())
    for name in samples:
        pipes[name].send(False)
    for process in processes:
        process.join()
    return samples


def report(samples: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(taken) for name, taken in samples.items()}
    peer = min((name for name in medians if not name.startswith(peers.OURS)), key=medians.__getitem__, default=None)
    for name, seconds in sorted(medians.items(), key=lambda item: item[1]):
        ratio = "" if peer is None else f"   best peer / this {medians[peer] / seconds:6.2f}"
        print(f"  {name:34s} {1e3 * seconds:9.2f} ms{ratio}", flush=True)


def _cases(text: str) -> list[tuple[int, int]]:
    pairs_of = [case.partition("x") for case in names(text)]
    return [(positive_int(problems), positive_int(n)) for problems, _, n in pairs_of]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=_cases, default="4096x32,512x128,256x256,64x512", help="PROBLEMSxROWS, comma separated"
    )
    parser.add_argument("--dtypes", type=names, default=["float32", "float64"], help="comma separated")
    parser.add_argument("--threads", type=positive_ints, default=[1, 2], help="comma separated numbers of threads")
    parser.add_argument("--rounds", type=positive_int, default=5, help="samples, of which the median counts")
    parser.add_argument("--peers-dir", type=Path, default=peers.PEERS_DIR)
    add_json(parser)
    options = parser.parse_args(arguments)
    packages = [package for package, _ in solvers(options.threads).values()]
    about = environment(rounds=options.rounds, versions=peers.versions_in(options.peers_dir, packages))
    rows = []
    for problems, n in options.cases:
        for dtype in options.dtypes:
            print(f"{problems} x ({n} x {n}), uniform {dtype}")
            costs = np.random.default_rng(0).random((problems, n, n), dtype=dtype)
            samples = measure(costs, options.threads, options.peers_dir, options.rounds)
            report(samples)
            rows.append({"problems": problems, "n": n, "dtype": dtype, "samples": samples})
            if options.json is not None:
                write_json(options.json, {"environment": about, "rows": rows})
    print(caption(about))


if __name__ == "__main__":
    main()
