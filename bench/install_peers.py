"""Install each peer into a folder of its own, never into the environment: lap and lapx share an import name.

Usage:
    python bench/install_peers.py [--peers-dir .bench-peers] [lap lapx lapjv ortools]

A folder that already holds the pinned version is left alone. A peer that cannot be installed, or does not solve a
small problem with this environment's numpy, is reported; the comparison then shows it as not installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from client import Worker, WorkerError
from families import make
from peers import PEERS_DIR, REQUIREMENTS, SOLVERS


def installed_version(package: str, folder: Path) -> str | None:
    """Return the version of `package` in `folder`, or None."""
    found = importlib.metadata.distributions(name=package, path=[str(folder)])
    return next((distribution.version for distribution in found), None)


def install(package: str, folder: Path) -> str | None:
    """Install the pinned version of one peer, without dependencies (all need numpy alone); return an error or None."""
    if installed_version(package, folder) == REQUIREMENTS[package].split("==")[1]:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(folder), REQUIREMENTS[package]], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def why_unusable(package: str, peers_dir: Path) -> str | None:
    """Solve a small problem with each solver of a peer; return what went wrong, or None."""
    path = peers_dir / "probe.npy"
    np.save(path, make("int100", 32, "float32"))
    try:
        with Worker(package, 1, peers_dir) as worker:
            worker.ask("load", 60, path=str(path), integral=True)
            for solver in (s for s in SOLVERS.values() if s.package == package):
                if reason := worker.ask("check", 60, solver=solver.name)["invalid"]:
                    return f"{solver.name}: {reason}"
    except WorkerError as error:
        return str(error)
    finally:
        path.unlink()
    return None


def main(arguments: list[str] | None = None) -> int:
    """Install and probe the peers asked for; the exit status is the number of those that do not work."""
    parser = argparse.ArgumentParser(description="install the peers, each in a folder of its own")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(REQUIREMENTS)} (default: all)")
    parser.add_argument("--peers-dir", type=Path, default=PEERS_DIR)
    options = parser.parse_args(arguments)
    if unknown := set(options.packages) - set(REQUIREMENTS):
        parser.error(f"unknown packages {', '.join(sorted(unknown))}; expected some of {', '.join(REQUIREMENTS)}")
    failures = 0
    for package in options.packages or REQUIREMENTS:
        options.peers_dir.mkdir(parents=True, exist_ok=True)
        error = install(package, options.peers_dir / package) or why_unusable(package, options.peers_dir)
        print(f"{REQUIREMENTS[package]:22} {'ok' if error is None else f'NOT USABLE: {error}'}", file=sys.stderr)
        failures += error is not None
    return failures


if __name__ == "__main__":
    sys.exit(main())
