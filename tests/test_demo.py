import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import rebasin_fast.demo as demo_module
from rebasin_fast._files import whole_files
from rebasin_fast.architectures import mlp
from rebasin_fast.datasets import load_digits, split_batches
from rebasin_fast.demo import POINTS, SPLITS, DemoSettings, default_settings, run_demo
from rebasin_fast.evaluate import evaluate
from rebasin_fast.training import make_mlp, train

SMALL = DemoSettings(width=24, hidden_layers=2, epochs=2, lambdas=3)
FILES = ["barrier.png", "demo.json", "merged.safetensors"]
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny layers: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def write_whole(targets, overwrite=True, meanwhile=lambda: None):
    with whole_files(targets, overwrite=overwrite) as temporary:
        for path in temporary:
            path.write_text("new")
        meanwhile()


def no_training(*_args, **_settings):
    raise AssertionError("the training started")


def test_demo_writes_three_files_that_agree_with_its_result(tmp_path, digits):
    stages = []
    result = run_demo(
        dataset=digits,
        out_dir=tmp_path / "new" / "folder",
        settings=SMALL,
        progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert names(tmp_path / "new" / "folder") == FILES
    assert result.figure.read_bytes().startswith(b"\x89PNG")
    written = json.loads(result.report.read_text())
    assert written == json.loads(json.dumps(result.numbers()))
    assert written["barrier"]["test"]["naive"] == result.naive["test"].barrier
    with safe_open(result.model, "pt") as file:
        merged = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata()["seeds"] == "A 0, B 1, matching 0"
    data = split_batches(digits.test_x, digits.test_y)
    again = evaluate(make_mlp((64, 24, 24, 10)), merged, data)
    loss, accuracy = result.point("midpoint, matched", "test")
    assert again.loss == pytest.approx(loss, rel=1e-5)
    assert again.accuracy == accuracy
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == list(result.seconds)
    assert stages[-1] == ("barrier, matched", 6, 6)
    assert ("train A", 2, 2) in stages


def test_matching_changes_the_way_but_not_the_ends(tmp_path, digits):
    result = run_demo(dataset=digits, out_dir=tmp_path, settings=SMALL)
    for split in SPLITS:
        naive, matched = result.naive[split], result.matched[split]
        np.testing.assert_allclose(naive.loss[[0, -1]], matched.loss[[0, -1]], rtol=1e-4)
        assert naive.loss[1] != matched.loss[1]
        assert naive.count == len(getattr(digits, f"{split}_y"))
        assert result.reduction(split) == 1 - matched.barrier / naive.barrier


def test_same_seed_same_numbers(tmp_path, digits):
    def numbers(folder, seed):
        result = run_demo(dataset=digits, out_dir=tmp_path / folder, settings=SMALL, seed=seed).numbers()
        return {key: result[key] for key in ("points", "barrier", "curves")}

    first = numbers("one", 3)
    assert numbers("two", 3) == first
    assert numbers("three", 4) != first


def test_demo_on_digits_removes_the_barrier(tmp_path, digits):
    result = run_demo(dataset=digits, out_dir=tmp_path, settings=DemoSettings(width=256, epochs=15))
    for split in SPLITS:
        assert result.naive[split].barrier > 0.2
        assert result.reduction(split) > 0.9
    assert result.point("midpoint, matched", "test")[1] > 0.9
    assert set(result.numbers()["points"]) == set(POINTS)


def test_existing_files_are_replaced_only_on_request(tmp_path, digits, monkeypatch):
    (tmp_path / "demo.json").write_text("precious")
    with monkeypatch.context() as patched:
        patched.setattr(demo_module, "train", no_training)
        with pytest.raises(FileExistsError, match=r"demo\.json"):
            run_demo(dataset=digits, out_dir=tmp_path, settings=SMALL)
    assert (tmp_path / "demo.json").read_text() == "precious"
    assert names(tmp_path) == ["demo.json"]
    run_demo(dataset=digits, out_dir=tmp_path, settings=SMALL, overwrite=True)
    assert names(tmp_path) == FILES
    assert json.loads((tmp_path / "demo.json").read_text())["dataset"] == "digits"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", ["_provenance", "_without_nan"], ids=["second file", "third file"])
def test_a_failure_while_writing_leaves_all_as_it_was(tmp_path, digits, monkeypatch, failing, existing):
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        for name in FILES:
            (out / name).write_text("precious")

    def full_disk(_value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_module, failing, full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_demo(dataset=digits, out_dir=out, settings=SMALL, overwrite=existing)
    if existing:
        assert names(out) == FILES
        assert {(out / name).read_text() for name in FILES} == {"precious"}
    else:
        assert names(tmp_path) == []


def test_places_that_cannot_be_written_are_found_before_the_training(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(demo_module, "train", no_training)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is not a folder"):
        run_demo(dataset=digits, out_dir=tmp_path / "file" / "out")
    (tmp_path / "demo.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"demo\.json is a folder"):
        run_demo(dataset=digits, out_dir=tmp_path, overwrite=True)


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_read_only_folder_is_found_before_the_training(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(demo_module, "train", no_training)
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="no permission to write"):
        run_demo(dataset=digits, out_dir=tmp_path / "out")


@pytest.mark.parametrize("package", ["matplotlib.figure", "safetensors.torch"])
def test_missing_packages_are_found_before_the_training(tmp_path, digits, monkeypatch, package):
    monkeypatch.setattr(demo_module, "train", no_training)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'rebasin-fast\[demo\]'"):
        run_demo(dataset=digits, out_dir=tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 0}, "width is 0; expected 1 or more"),
        ({"hidden_layers": 0}, "hidden_layers is 0"),
        ({"epochs": -1}, "epochs is -1; expected 0 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": float("nan")}, "lr is nan; expected a finite number above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"lambdas": 4}, "lambdas is 4; expected an odd number"),
        ({"lambdas": 1}, "lambdas is 1; expected an odd number"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        DemoSettings(**setting)


def test_settings_of_the_wrong_type_and_seeds(tmp_path, digits):
    with pytest.raises(TypeError, match=r"epochs is 1\.5; expected an integer"):
        DemoSettings(epochs=1.5)
    with pytest.raises(ValueError, match="seed is -1; expected 0 or more"):
        run_demo(dataset=digits, out_dir=tmp_path, seed=-1)
    assert default_settings("digits") != default_settings("mnist")


def test_training_is_repeatable_and_leaves_the_global_generator_alone(digits):
    def parameters(seed):
        trained = train(lambda: make_mlp((64, 8, 10)), digits, epochs=2, batch_size=200, seed=seed)
        assert trained.losses[1] < trained.losses[0]
        return torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()])

    state = torch.random.get_rng_state()
    first = parameters(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(parameters(5), first)
    assert not torch.equal(parameters(6), first)


def test_training_that_diverges_says_so(digits):
    with pytest.raises(ValueError, match=r"training diverged: mean loss .* lr = 1e\+30"):
        train(lambda: make_mlp((64, 8, 10)), digits, epochs=3, lr=1e30)


def test_mlp_has_the_names_of_its_spec():
    widths = (5, 4, 3, 2)
    state = make_mlp(widths).state_dict()
    mlp(widths).validate(state)
    assert make_mlp(widths)(torch.ones(2, 5)).shape == (2, 2)
    for bad in ((5,), (5, 0, 2)):
        with pytest.raises(ValueError, match="widths is"):
            make_mlp(bad)


def test_whole_files_put_back_what_they_replaced_when_a_move_fails(tmp_path, monkeypatch):
    targets = [tmp_path / name for name in ("one", "two", "three")]
    for target in targets[1:]:
        target.write_text("old")
    replace = Path.replace

    def fail_at_last(source, target):
        if Path(target) == targets[2] and source.read_text() == "new":
            raise OSError("disk went away")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", fail_at_last)
    with pytest.raises(OSError, match="disk went away"):
        write_whole(targets)
    assert names(tmp_path) == ["three", "two"]
    assert targets[1].read_text() == targets[2].read_text() == "old"


def test_whole_files_notice_a_file_that_came_in_between(tmp_path):
    target = tmp_path / "result"
    with pytest.raises(FileExistsError, match="result"):
        write_whole([target], overwrite=False, meanwhile=lambda: target.write_text("theirs"))
    assert names(tmp_path) == ["result"]
    assert target.read_text() == "theirs"


def test_whole_files_move_symlinks_aside_not_their_targets(tmp_path):
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("old")
    link.symlink_to(kept)
    write_whole([link])
    assert kept.read_text() == "old"
    assert link.read_text() == "new"
    assert names(tmp_path) == ["kept", "link"]
