"""The matching benchmark: its plain algorithm is the slow twin, wrong answers stop it, it writes what it measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import reference

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCH))

import networks  # noqa: E402
import plain_matching  # noqa: E402
import weight_matching as bench  # noqa: E402
from models import MLP, VGG16, ResNet20, ResNet50  # noqa: E402
from rebasin_fast import apply_permutation, invert, random_permutation, resnet20, weight_matching  # noqa: E402


def as_numpy(params):
    return {name: tensor.numpy().astype(float) for name, tensor in params.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_plain_algorithm_is_the_slow_twin(seed):
    spec = resnet20(0.5)
    generator = torch.Generator().manual_seed(seed)
    a, b = (networks.drawn("resnet20x16", spec, generator) for _ in range(2))
    found, sweeps = plain_matching.plain_weight_matching(spec, a, b, seed)
    twin = reference.weight_matching(spec, as_numpy(a), as_numpy(b), seed)
    assert all(np.array_equal(found[group], twin[group]) for group in twin)
    assert sweeps > 1
    value = plain_matching.objective(spec, a, b, found)
    assert value == pytest.approx(reference.objective(spec, as_numpy(a), as_numpy(b), twin))


@pytest.mark.parametrize(
    ("network", "model"),
    [
        ("resnet50", lambda: ResNet50()),
        ("vgg16", lambda: VGG16()),
        ("resnet20x16", lambda: ResNet20(16)),
        ("mlp512", lambda: MLP((784, 512, 512, 512, 10))),
    ],
)
def test_shapes_are_those_of_the_networks(network, model):
    with torch.device("meta"):
        want = {name: tuple(tensor.shape) for name, tensor in model().state_dict().items()}
    assert networks.shapes(network, networks.NETWORKS[network]()) == want


def test_a_planted_network_is_the_first_one_permuted_and_noisy():
    spec, a, b = networks.pair("tiny", "planted", 3, noise=0.1)
    planted = random_permutation(spec, 3)
    back = apply_permutation(spec, invert(planted), b)
    for name in a:
        distance = float((a[name] - back[name]).norm() / a[name].norm())
        assert 0 < distance < 0.3
    assert any(not torch.equal(index, torch.arange(len(index))) for index in map(torch.from_numpy, planted.values()))


def test_wrong_answers_are_not_timed():
    spec, a, b = networks.pair("tiny", "random", 0)
    right = weight_matching(spec, a, b)
    bench.check(spec, a, b, right)
    twice = {**right.permutation, "P_0": np.zeros(32, dtype=np.int64)}
    with pytest.raises(RuntimeError, match="the answer for group 'P_0' is not a permutation"):
        bench.check(spec, a, b, replace(right, permutation=twice))
    with pytest.raises(RuntimeError, match="the objective is"):
        bench.check(spec, a, b, replace(right, objective=(0.0, 1.01 * right.objective[-1])))


def test_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "warm_up", lambda: None)
    threads = torch.get_num_threads()
    where = tmp_path / "w.json"
    arguments = ["--networks", "tiny", "--kinds", "random,planted", "--seeds", "2", "--init", "identity"]
    try:
        assert bench.main([*arguments, "--json", str(where)]) == 0
        assert bench.main([*arguments, "--no-plain"]) == 0
        assert bench.main(["--networks", "tiny", "--kinds", "planted", "--init", "default,barycentre"]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads(where.read_text())["rows"]
    assert [(row["network"], row["kind"]) for row in rows] == [("tiny", "random"), ("tiny", "planted")]
    for row in rows:
        assert len(row["seconds"]) == len(row["plain_seconds"]) == 2
        assert row["objective"] == pytest.approx(row["plain_objective"], rel=1e-6)  # the same start and order
    assert len(capsys.readouterr().out.splitlines()) == 3 * (1 + 2 + 1)


def test_an_objective_below_the_plain_one_is_told(capsys, monkeypatch):
    monkeypatch.setattr(bench, "warm_up", lambda: None)
    monkeypatch.setattr(bench, "measure", lambda rows, *_: rows[0].__dict__.update(made("tiny", "planted").__dict__))
    assert bench.main(["--networks", "tiny", "--kinds", "planted", "--seeds", "1"]) == 1
    assert "objective below the plain algorithm's: tiny planted from default" in capsys.readouterr().out
    assert made("tiny", "planted").ratio == 4.0


def made(network, kind):
    return bench.Row(
        network,
        kind,
        plain_seconds=[8.0],
        seconds=[2.0],
        cost_seconds=[1.0],
        lap_seconds=[1.0],
        plain_objective=[10.0],
        objective=[9.0],
        plain_sweeps=[3],
        sweeps=[1],
        extra_bytes=[None],
    )


def test_unknown_names_end_with_a_message(capsys):
    for arguments, message in (
        (["--networks", "lenet"], "unknown network: lenet"),
        (["--kinds", "x"], "unknown kind"),
        (["--init", "x"], "unknown init"),
    ):
        with pytest.raises(SystemExit) as caught:
            bench.main(arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
