"""``rebasin-fast spec``: a spec file, an architecture read off a checkpoint, a model class."""

import json

import pytest
import torch
from safetensors.torch import save_file

import models
from rebasin_fast import PermutationSpec, count_symmetries, mlp, resnet20, resnet50, vgg16

NETWORKS = {
    "mlp": (models.MLP((6, 12, 9, 4)), mlp((6, 12, 9, 4))),
    "mlp, deep": (models.MLP((5, *[4] * 11, 3)), mlp((5, *[4] * 11, 3))),
    "mlp, no bias": (models.MLP((6, 12, 4), bias=False), mlp((6, 12, 4), bias=False)),
    "vgg16": (models.VGG16(0.0625, num_classes=7), vgg16(0.0625, num_classes=7)),
    "vgg16, plain": (
        models.VGG16(0.0625, norm=None, classifier_widths=(512,), spatial=2),
        vgg16(0.0625, norm=None, classifier_widths=(512,), spatial=2),
    ),
    "resnet20": (models.ResNet20(0.25, in_channels=1), resnet20(0.25, in_channels=1)),
    "resnet20, layer norm": (models.ResNet20(0.5, norm="layer_norm"), resnet20(0.5, norm="layer_norm")),
    "resnet50": (models.ResNet50(0.0625, num_classes=5), resnet50(0.0625, num_classes=5)),
}
MLP = ["--model-class", "models:MLP", "--kwargs", '{"widths": [6, 12, 4]}', "--input", "5,6"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_sizes_come_from_the_checkpoint(tmp_path, call, name, suffix):
    model, expected = NETWORKS[name]
    checkpoint, saved = tmp_path / f"model.{suffix}", tmp_path / "spec.json"
    (save_file if suffix == "safetensors" else torch.save)(model.state_dict(), checkpoint)
    code, out, err = call("spec", checkpoint, "--arch", name.split(",")[0], "--save", saved, "--json")
    assert (code, err) == (0, "")
    assert PermutationSpec.load(saved) == expected
    shown = json.loads(out)
    assert {group["name"]: group["size"] for group in shown["groups"]} == dict(expected.sizes)
    assert shown["log10_symmetries"] == count_symmetries(expected)
    assert shown["log10_symmetries_paper"] == count_symmetries(expected, counting="paper")


def test_a_spec_file_is_shown(tmp_path, call):
    mlp((784, 512, 512, 512, 10)).save(tmp_path / "spec.json")
    code, out, err = call("spec", "--spec", tmp_path / "spec.json")
    assert (code, err) == (0, "")
    for text in ("3 groups, 8 parameters", "P_2", "512", "layer3.weight[1]", "10^3498"):
        assert text in out


def test_without_sizes_the_symmetries_are_unknown(tmp_path, call):
    PermutationSpec.from_axes_to_perm({"a": ("P", None), "b": (None, "P")}).save(tmp_path / "spec.json")
    code, out, _ = call("spec", "--spec", tmp_path / "spec.json")
    assert code == 0
    assert "unknown without sizes" in out


def test_a_model_class_is_traced_and_proved(tmp_path, call):
    code, out, err = call("spec", *MLP, "--prove", "--save", tmp_path / "spec.json")
    assert (code, err) == (0, "")
    assert "the specification holds" in out
    assert PermutationSpec.load(tmp_path / "spec.json").equivalent(mlp((6, 12, 4)))
    shown = json.loads(call("spec", *MLP, "--prove", "--json")[1])
    assert shown["proof"]["holds"] is True


def test_save_replaces_only_with_force(tmp_path, call):
    (tmp_path / "spec.json").write_text("precious")
    assert call("spec", *MLP, "--save", tmp_path / "spec.json")[0] == 2
    assert (tmp_path / "spec.json").read_text() == "precious"
    assert call("spec", *MLP, "--save", tmp_path / "spec.json", "--force")[0] == 0
    assert PermutationSpec.load(tmp_path / "spec.json").groups
    code, _, err = call("spec", "--spec", tmp_path / "spec.json", "--save", tmp_path / "spec.json", "--force")
    assert code == 2
    assert "is an input" in err


class Picky(torch.nn.Module):
    """A model that raises what no library would."""

    def __init__(self) -> None:
        raise RuntimeError("not today")


class Norms(torch.nn.Module):
    """Hidden units with a fixed scale each: they cannot be reordered."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 6), torch.nn.Linear(6, 2)
        self.register_buffer("scale", torch.arange(6.0), persistent=False)

    def forward(self, x):
        return self.b(self.a(x) * self.scale)


def test_a_spec_that_does_not_hold_exits_with_1(call, monkeypatch):
    wrong = PermutationSpec.from_axes_to_perm(
        {"a.weight": ("P", None), "a.bias": ("P",), "b.weight": (None, "P"), "b.bias": (None,)}, sizes={"P": 6}
    )
    monkeypatch.setattr(PermutationSpec, "from_module", lambda *_: wrong)
    code, out, _ = call("spec", "--model-class", "test_cli_spec:Norms", "--input", "4,3", "--prove")
    assert code == 1
    assert "does not hold" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "0 of --arch, --model-class and --config"),
        (["--arch", "mlp", "--model-class", "models:MLP"], "2 of --arch, --model-class and --config"),
        (["--arch", "lenet"], "expected one of mlp, vgg16, resnet20, resnet50"),
        (["--arch", "mlp"], "needs a checkpoint"),
        (["--arch", "mlp", "--prove"], "needs a checkpoint"),
        (["--arch", "mlp", "--input", "2,3"], "belongs to --model-class"),
        (["--arch", "mlp", "--kwargs", '{"a": 1}'], "belongs to --model-class"),
        (["missing.pt", "--arch", "mlp"], "missing.pt"),
        (["--spec", "missing.json"], "missing.json"),
        (["--model-class", "models:MLP"], "needs --input"),
        ([*MLP[:-1], "5x6"], "--input is '5x6'"),
        (["--model-class", "models.MLP", "--input", "2,3"], "expected package.module:Class"),
        (["--model-class", "models:Nothing", "--input", "2,3"], "has no 'Nothing'"),
        (["--model-class", "no_such_module:M", "--input", "2,3"], "no_such_module"),
        ([*MLP[:-1], "0,6"], "expected a shape without zeros"),
        ([*MLP[:3], "[" * 100_000, "--input", "5,6"], "no JSON"),
        (["--model-class", "test_cli_spec:Picky", "--input", "2,3"], "not today"),
        ([*MLP[:3], "[1]", "--input", "5,6"], "expected a JSON object"),
        ([*MLP[:3], "{", "--input", "5,6"], "no JSON"),
        ([*MLP[:3], '{"depth": 3}', "--input", "5,6"], "depth"),
    ],
)
def test_bad_input_is_one_line(call, arguments, message):
    code, out, err = call("spec", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_checkpoint_that_does_not_fit_is_told(tmp_path, call):
    torch.save(NETWORKS["mlp"][0].state_dict(), tmp_path / "mlp.pt")
    code, _, err = call("spec", tmp_path / "mlp.pt", "--arch", "resnet20")
    assert code == 2
    assert "no 'conv1.weight'" in err
    mlp((6, 12, 10, 4)).save(tmp_path / "spec.json")
    code, _, err = call("spec", tmp_path / "mlp.pt", "--spec", tmp_path / "spec.json")
    assert code == 2
    assert "does not fit the specification" in err


def test_files_of_the_users_that_are_broken_are_told_in_one_line(tmp_path, call, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def (:")
    (tmp_path / "config.json").write_text("[" * 100_000)
    monkeypatch.syspath_prepend(tmp_path)
    for arguments, message in (
        (["--model-class", "broken_module:M", "--input", "2,3"], "broken_module cannot be imported: SyntaxError"),
        (["--config", tmp_path / "config.json"], "config.json is no JSON"),
    ):
        code, out, err = call("spec", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
