"""The seven experiments at smoke scale, on small data of their own."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import math
import os
import pkgutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from idx_data import write_idx_dataset
from rebasin_fast import evaluate, interpolate, reset_batch_norm
from rebasin_fast import reproduce as package
from rebasin_fast.reproduce import EXPERIMENTS, SCALES, reproduce
from rebasin_fast.reproduce.experiments import beyond, emergence, lmc, merge_many, split_data, symmetries, width
from rebasin_fast.reproduce.lab import Lab, biased_side
from rebasin_fast.reproduce.measure import notes_on, pair_of
from rebasin_fast.reproduce.recipes import Network, Part
from rebasin_fast.reproduce.scales import mlp_recipe, vgg_recipe
from rebasin_fast.reproduce.store import Store

COLUMNS = {
    "lmc": lmc.COLUMNS,
    "emergence": emergence.COLUMNS,
    "width": width.COLUMNS,
    "split-data": split_data.COLUMNS,
    "merge-many": merge_many.COLUMNS,
    "symmetries": symmetries.COLUMNS,
    "beyond": beyond.COLUMNS,
}
CONVOLUTIONAL = [
    Network(kind, width, norm)
    for kind, width in (("resnet20", 0.25), ("vgg16", 0.125))
    for norm in ("layer_norm", "batch_norm")
]
MODULES = sorted(module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."))

# What a kill is: no exception, no cleaning up.
KILLED = """
import os, sys
from rebasin_fast.reproduce import reproduce

def progress(stage, done, total):
    if (stage, done) == ("split-data", 1):
        os._exit(9)

reproduce("split-data", data=sys.argv[1], out=sys.argv[2], scale="smoke", progress=progress)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("mnist", "fashion_mnist")):
        write_idx_dataset(folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    for name in EXPERIMENTS:
        reproduce(name, data=data, out=folder, scale="smoke")
    return folder


@pytest.fixture
def rows(out):
    def read(name):
        with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture
def cases(out):
    return lambda name: json.loads((out / f"{name}.json").read_text())["cases"]


def number(row, column):
    return float(row[column])


def written(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_every_experiment_is_there_at_every_scale():
    assert list(EXPERIMENTS) == list(COLUMNS)
    for experiment in EXPERIMENTS.values():
        assert tuple(experiment.cases) == SCALES
        assert all(experiment.cases.values())


@pytest.mark.parametrize("name", COLUMNS)
def test_table_text_numbers_and_figure_are_written(name, out, rows):
    table = rows(name)
    assert tuple(table[0]) == COLUMNS[name]
    content = json.loads((out / f"{name}.json").read_text())
    assert [tuple(row) for row in content["table"]] == [COLUMNS[name]] * len(table)
    assert (content["experiment"], content["scale"], content["seed"]) == (name, "smoke", 0)
    assert len(content["cases"]) == len(EXPERIMENTS[name].cases["smoke"])
    assert content["beside the paper"]
    assert content["made with"]["torch"] == torch.__version__
    text = (out / f"{name}.md").read_text()
    assert f"rebasin-fast reproduce {name} --data DIR --out DIR --scale smoke --seed 0" in text
    assert f"| {' | '.join(COLUMNS[name])} |" in text
    assert "|  | ours | paper |" in text
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")


def test_no_number_is_missing(rows):
    for name in COLUMNS:
        for row in rows(name):
            assert all(cell not in ("", "nan", "inf") for cell in row.values()), row


@pytest.mark.parametrize("name", ["lmc", "emergence", "width", "split-data", "beyond"])
def test_barriers_are_what_their_curves_say(name, cases):
    curves = [
        found for case in cases(name) for found in case.values() if isinstance(found, dict) and "barrier" in found
    ]
    assert len(curves) >= 4
    for curve in curves:
        losses = curve["loss"]
        assert curve["barrier"] == pytest.approx(max(losses) - (losses[0] + losses[-1]) / 2, abs=1e-12)
        assert curve["barrier"] >= abs(losses[0] - losses[-1]) / 2 - 1e-12
        assert len(curve["lambda"]) == len(losses) == len(curve["accuracy"])
        assert all(0 <= accuracy <= 1 for accuracy in curve["accuracy"])


def test_lmc_every_way_ends_in_the_same_function_and_matching_lowers_the_barrier(cases, rows):
    by_recipe = {}
    for case in cases("lmc"):
        by_recipe.setdefault(json.dumps(case["recipe"]), {})[case["way"]] = case
    assert len(by_recipe) == 4
    for ways in by_recipe.values():
        assert tuple(ways) == lmc.WAYS
        for way in lmc.WAYS[1:]:
            for split in ("train", "test"):
                for end in (0, -1):
                    ours, naive = (ways[key][split]["loss"][end] for key in (way, "naive"))
                    assert ours == pytest.approx(naive, rel=1e-4)
    for row in rows("lmc")[:8]:
        assert number(row, "mean test accuracy of A, B") > 0.7
        if row["way"] == "naive":
            naive = number(row, "test barrier")
        else:
            assert number(row, "test barrier") < 0.7 * naive


def test_emergence_ends_with_the_networks_of_lmc(cases):
    last = [case for case in cases("emergence") if case["epoch"] == 4]
    naive = [case for case in cases("lmc") if case["way"] == "naive"][:2]
    for here, there in zip(last, naive, strict=True):
        assert here["naive"]["loss"][1] == there["test"]["loss"][2]
        assert here["naive"]["accuracy"][0] == there["test"]["accuracy"][0]


def test_emergence_untrained_networks_are_as_good_as_chance(rows):
    table = rows("emergence")
    assert [int(row["epoch"]) for row in table] == [0, 1, 2, 4] * 2
    for row in table:
        if row["epoch"] == "0":
            assert number(row, "mean test loss") == pytest.approx(math.log(10), abs=0.1)
            assert number(row, "naive test barrier") < 0.05
    assert all(number(table[i + 3], "mean test loss") < number(table[i], "mean test loss") - 0.5 for i in (0, 4))


def test_width_has_every_kind_of_network_and_says_how_far_the_barrier_fell(rows):
    table = rows("width")
    assert [row["network"] for row in table[::2]] == [
        "MLP 3 x 8",
        "ResNet20, width x 1/8",
        "VGG16 (batch norm), width x 1/16",
    ]
    for row in table:
        naive, matched = (number(row, f"{way} test barrier") for way in ("naive", "matched"))
        assert number(row, "reduction") == pytest.approx(1 - matched / naive, abs=1e-4)


def test_split_data_compares_five_models_and_the_ensemble_is_no_worse_than_its_members(rows, cases):
    table = rows("split-data")
    assert [row["model"] for row in table] == ["A", "B", "ensemble", "naive average", "merged"] * 2
    for start in (0, 5):
        a, b, ensemble = table[start : start + 3]
        for split in ("train", "test"):  # Jensen's inequality
            loss = f"{split} loss"
            assert number(ensemble, loss) <= (number(a, loss) + number(b, loss)) / 2 + 1e-6
        assert all(0 <= number(row, "test ECE") <= 1 for row in table[start : start + 5])
    for case in cases("split-data"):
        for split, examples in (("train", 500), ("test", 200)):
            assert sum(case["models"]["merged"][split]["count"]) == examples
        merged, midpoint = case["models"]["merged"]["test"], case["matched"]["loss"][2]
        assert merged["loss"] == pytest.approx(midpoint, rel=1e-4)


def test_merge_many_stands_beside_the_papers_table(rows, out):
    table = rows("merge-many")
    names = [f"seed {i}" for i in range(1, 6)] + ["mean of 5", "naive average", "MergeMany", "ensemble"]
    assert [row["model"] for row in table] == [*names, "mean of 6", *names[-3:]]
    for mean, naive, merged, ensemble in (table[5:9], table[9:]):
        assert number(ensemble, "test loss") <= number(mean, "test loss") + 1e-6
        assert number(merged, "test loss") < number(naive, "test loss")
    assert [row["seen by each"] for row in table] == ["all"] * 9 + ["random half"] * 4
    mean = np.mean([number(row, "test loss") for row in table[:5]])
    assert number(table[5], "test loss") == pytest.approx(mean, rel=1e-4)
    told = json.loads((out / "merge-many.json").read_text())["beside the paper"]
    beside = {what: (ours, paper) for what, ours, paper in told}
    ours, paper = beside["MergeMany: test loss"]
    assert (ours, paper) == (pytest.approx(number(table[7], "test loss"), rel=1e-4), 0.0727)
    assert beside["seed 2: test loss"][1] == 0.1531
    assert beside["test loss below the parents' mean, 5 networks on mnist"][1] == "43 %"


def test_symmetries_are_the_papers(rows):
    assert [
        (row["network"], row["log10, as the paper counts"], row["log10 in the paper"]) for row in rows("symmetries")
    ] == [
        ("MLP 3 x 512", "3498", "3498"),
        ("VGG16", "35160", "35160"),
        ("ResNet50", "55109", "55109"),
    ]
    assert number(rows("symmetries")[2], "log10, exact") == pytest.approx(25638, abs=1)


def test_beyond_measures_one_pair_alike_in_every_study(rows):
    table = rows("beyond")
    assert [row["study"] for row in table] == ["width"] * 2 + ["epoch"] * 3 + ["learning rate"] * 2
    wide, last = table[1], table[4]
    assert (wide["setting"], last["setting"]) == ("48", "4")
    first, rate = table[2], table[5]
    assert (first["setting"], rate["setting"]) == ("1", "0.003")
    for column in beyond.COLUMNS[2:]:
        assert wide[column] == last[column]
        assert first[column] == rate[column]
    assert number(wide, "barrier, default start") < number(wide, "barrier, naive")


def test_a_killed_run_is_continued_to_the_same_numbers(data, out, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(data), str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=False,
    )
    assert done.returncode == 9
    assert written(tmp_path / "out") == []
    assert len(list((tmp_path / "out" / "cases").iterdir())) == 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "models").iterdir()}
    assert len(kept) == 8  # two networks, at four epochs each
    stages = []
    reproduce(
        "split-data",
        data=data,
        out=tmp_path / "out",
        scale="smoke",
        progress=lambda *report: stages.append(report),
    )
    assert [stage for stage, *_ in stages].count("train") == 2 * 4  # those of the second case alone
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    names = [f"split-data.{suffix}" for suffix in ("csv", "json", "md", "png", "svg")]
    assert written(tmp_path / "out") == names
    for name in ("split-data.csv", "split-data.json", "split-data.md", "split-data.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("seconds", [60.0, 0.0])
@pytest.mark.parametrize("removed", [False, True])
def test_a_network_half_trained_is_trained_on_to_the_same_numbers(data, out, tmp_path, monkeypatch, seconds, removed):
    """From its beginning if no minute has passed, or what was kept on the way is gone."""
    monkeypatch.setattr("rebasin_fast.reproduce.store._STATE_SECONDS", seconds)
    seen = []

    def stop(stage, done, _total):
        if (stage, done) == ("train", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce("emergence", data=data, out=tmp_path, scale="smoke", progress=stop)
    states = list((tmp_path / "models").glob("*.unfinished.pt"))
    assert len(states) == (seconds == 0.0)
    snapshots = sorted(set((tmp_path / "models").iterdir()) - set(states))
    assert len(snapshots) == 3  # after epochs 0, 1 and 2
    assert not (tmp_path / "cases").exists()
    if removed:
        snapshots[0].unlink()
    reproduce("emergence", data=data, out=tmp_path, scale="smoke", progress=lambda *told: seen.append(told))
    assert [stage for stage, *_ in seen].count("train") == 4 * 4 - (3 if states and not removed else 0)
    assert not list((tmp_path / "models").glob("*.unfinished.pt"))
    assert (tmp_path / "emergence.json").read_bytes() == (out / "emergence.json").read_bytes()


def test_other_seeds_and_other_data_share_nothing(data, out, tmp_path, rows):
    reproduce("emergence", data=data, out=tmp_path, scale="smoke", seed=1)
    before = len(list((tmp_path / "cases").iterdir()))
    assert (tmp_path / "emergence.csv").read_text() != (out / "emergence.csv").read_text()
    for name in ("mnist", "fashion_mnist"):
        write_idx_dataset(tmp_path / "data" / name, seed=7)
    reproduce("emergence", data=tmp_path / "data", out=tmp_path, scale="smoke", seed=1, overwrite=True)
    assert len(list((tmp_path / "cases").iterdir())) == 2 * before


@pytest.mark.parametrize("there", [[], ["mnist"]])
def test_missing_data_are_told_before_anything_is_written(tmp_path, there):
    (tmp_path / "data").mkdir()
    for name in there:
        write_idx_dataset(tmp_path / "data" / name, train=20, test=10)
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*looked in"):
        reproduce("lmc", data=tmp_path / "data", out=tmp_path / "out", scale="smoke")
    assert not (tmp_path / "out").exists()


def test_no_folder_of_data_is_told(tmp_path):
    with pytest.raises(ValueError, match="expected data to be the folder"):
        reproduce("width", out=tmp_path / "out", scale="smoke")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "imagenet"}, ValueError, r"name is 'imagenet'; expected one of lmc, emergence"),
        ({"scale": "huge"}, ValueError, r"scale is 'huge'; expected one of smoke, small, paper"),
        ({"seed": -1}, ValueError, r"seed is -1; expected 0 or more"),
        ({"seed": 1.5}, TypeError, r"seed is 1.5; expected an integer"),
        ({"device": "abacus"}, ValueError, r"device is 'abacus', which torch cannot use"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        reproduce(**({"name": "symmetries", "out": tmp_path / "out"} | options))
    assert not (tmp_path / "out").exists()


def test_results_are_replaced_only_when_told_to(tmp_path):
    (tmp_path / "symmetries.md").write_text("precious")
    with pytest.raises(FileExistsError, match=r"symmetries\.md"):
        reproduce("symmetries", out=tmp_path)
    assert (tmp_path / "symmetries.md").read_text() == "precious"
    assert written(tmp_path) == ["symmetries.md"]
    reproduce("symmetries", out=tmp_path, overwrite=True)
    assert "3498" in (tmp_path / "symmetries.md").read_text()


def test_broken_files_that_were_kept_are_named(data, out, tmp_path):
    reproduce("symmetries", out=tmp_path)
    case = next((tmp_path / "cases").iterdir())
    case.write_text('{"key": ')
    with pytest.raises(ValueError, match=rf"{case.name} is broken .*remove it"):
        reproduce("symmetries", out=tmp_path, overwrite=True)
    recipe = mlp_recipe("smoke", "mnist")
    lab = Lab(data, Store(tmp_path))
    lab.trained(recipe, 1)
    for model in (tmp_path / "models").iterdir():
        model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"models.*cannot be read"):
        lab.trained(recipe, 1)


def test_only_kept_epochs_can_be_asked_for(data, tmp_path):
    with pytest.raises(ValueError, match=r"epoch is 3; expected one of \[0, 1, 2, 4\]"):
        Lab(data, Store(tmp_path)).trained(mlp_recipe("smoke", "mnist"), 1, epoch=3)


def test_members_and_parts_are_networks_of_their_own(data, tmp_path):
    lab, recipe = Lab(data, Store(tmp_path)), mlp_recipe("smoke", "mnist")
    networks = [
        lab.trained(recipe, 1, epoch=1),
        lab.trained(recipe, 2, epoch=1),
        lab.trained(recipe, 1, part=Part("half", 1), epoch=1),
        lab.trained(recipe, 1, part=Part("labels", 0), epoch=1),
        lab.trained(recipe, 1, part=Part("labels", 1), epoch=1),
    ]
    weights = {tuple(network["layer1.weight"].flatten()[:50].tolist()) for network in networks}
    assert len(weights) == len(networks)


def test_held_out_examples_are_others_than_those_to_learn_from(data, tmp_path):
    learn, choose = Lab(data, Store(tmp_path)).held_out(mlp_recipe("smoke", "mnist"))
    rows_of = [{row.numpy().tobytes() for x, _ in batches for row in x} for batches in (learn, choose)]
    assert not rows_of[0] & rows_of[1]
    assert [len(found) for found in rows_of] == [333, 167]


def test_the_biased_split_is_the_papers():
    labels = np.repeat(np.arange(4), 50)
    sides = [biased_side(labels, 4, side, seed=3) for side in (0, 1)]
    assert sorted(np.concatenate(sides).tolist()) == list(range(200))
    assert np.bincount(labels[sides[0]]).tolist() == [10, 10, 40, 40]
    assert np.bincount(labels[sides[1]]).tolist() == [40, 40, 10, 10]
    assert biased_side(labels, 4, 0, seed=4).tolist() != sides[0].tolist()


@pytest.mark.parametrize("network", [*CONVOLUTIONAL, Network("mlp", 16)])
@pytest.mark.parametrize("side", [28, 14, 7])
def test_networks_have_the_symmetries_of_their_specs(network, side):
    features = side * side
    model, spec = network.build(features, 10), network.spec(features, 10)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.3)
    spec.validate(model.state_dict())
    x = torch.rand(4, features)
    assert model(x).shape == (4, 10)
    assert spec.prove(model, x)


def test_curves_between_batch_norms_take_their_statistics_anew(data, tmp_path):
    """By the library's functions, point by point; and with A's mean statistics they are others."""
    recipe = replace(vgg_recipe("smoke", 0.125), epochs=1)
    lab = Lab(data, Store(tmp_path))
    pair, test = pair_of(lab, recipe), lab.batches(recipe, "test")
    curve = pair.curve(pair.b, test, 3)
    merged = interpolate(pair.a, pair.b, 0.5)
    anew = reset_batch_norm(pair.model, merged, lab.batches(recipe, "train", at_most=2000))
    expected = [evaluate(pair.model, params, test).loss for params in (pair.a, anew, pair.b)]
    assert curve["loss"] == pytest.approx(expected, rel=1e-6)
    assert curve["loss"][1] != pytest.approx(evaluate(pair.model, merged, test).loss, rel=1e-3)
    assert notes_on([recipe])
    assert not notes_on([mlp_recipe("smoke", "mnist")])


@pytest.mark.parametrize("scale", SCALES)
def test_all_networks_fit_their_specs_at_every_scale(scale):
    networks = {case.recipe.network for known in EXPERIMENTS.values() for case in known.cases[scale] if case.recipe}
    assert {network.kind for network in networks} == {"mlp", "resnet20", "vgg16"}
    for network in networks:
        with torch.device("meta"):  # the largest would need gigabytes
            network.spec(784, 10).validate(network.build(784, 10).state_dict())


def test_channel_norm_is_layer_norm_at_every_position():
    from rebasin_fast.reproduce.convolutional import ChannelNorm

    norm, x = ChannelNorm(5), torch.randn(3, 5, 4, 2)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5))
        norm.bias.copy_(torch.randn(5))
    expected = torch.nn.functional.layer_norm(x.movedim(1, -1), (5,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_importing_loads_neither_torch_nor_matplotlib():
    code = "import sys, rebasin_fast.reproduce; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cli_shows_both_tables_and_writes_the_files(tmp_path, call):
    code, stdout, _ = call("reproduce", "symmetries", "--out", tmp_path)
    assert code == 0
    for text in ("Numbers of permutation symmetries", "Beside the paper", "55109", "log10, exact", "symmetries.svg"):
        assert text in stdout
    assert len(written(tmp_path)) == 5
    code, stdout, stderr = call("reproduce", "symmetries", "--out", tmp_path)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "symmetries.csv" in stderr


def test_cli_as_json_prints_what_it_writes(data, tmp_path, call):
    arguments = ["reproduce", "emergence", "--data", data, "--scale", "smoke", "--json", "--quiet"]
    code, stdout, stderr = call(*arguments, "--out", tmp_path)
    assert (code, stderr) == (0, "")
    assert json.loads(stdout) == json.loads((tmp_path / "emergence.json").read_text())


def test_cli_shows_progress_and_tells_what_is_missing_in_one_line(data, tmp_path, call):
    code, _, stderr = call("reproduce", "emergence", "--data", data, "--scale", "smoke", "--out", tmp_path / "out")
    assert code == 0
    assert "emergence" in stderr
    assert "train" in stderr
    code, stdout, stderr = call("reproduce", "lmc", "--data", tmp_path / "none", "--out", tmp_path / "other")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "looked in" in stderr
    assert not (tmp_path / "other").exists()


def test_committed_results_are_those_of_the_present_settings():
    folder = Path(__file__).parent.parent / "bench" / "results" / "paper"
    if not folder.is_dir():
        pytest.skip("the results are not beside the tests")
    kept = sorted(folder.glob("*.json"))
    assert kept
    for file in kept:
        content = json.loads(file.read_text())
        cases = EXPERIMENTS[content["experiment"]].cases["small"]
        for case, found in zip(cases, content["cases"], strict=True):
            settings = json.loads(json.dumps(asdict(case)))
            assert {key: found[key] for key in settings} == settings
        assert all(file.with_suffix(suffix).is_file() for suffix in (".csv", ".md", ".png", ".svg"))


def test_paths_are_taken_as_strings_too(tmp_path):
    report = reproduce("symmetries", out=str(tmp_path / "a" / "b"))
    assert report.summary.table.columns == symmetries.COLUMNS
    assert Path(tmp_path / "a" / "b" / "symmetries.csv").is_file()
