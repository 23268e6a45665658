"""The builders against real torch modules: the names fit, and a permuted network computes the same function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import models
from rebasin_fast.architectures import mlp, resnet20, resnet50, vgg16
from rebasin_fast.permute import apply_permutation, random_permutation
from rebasin_fast.spec import Member, PermutationSpec

SMALL_VGG = {"classifier_widths": (96, 64), "num_classes": 7, "in_channels": 2}


@dataclass(frozen=True)
class Case:
    """A builder and the module it describes, made from the same arguments."""

    builder: Any
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    input_shape: tuple[int, ...]

    def spec(self) -> PermutationSpec:
        return self.builder(*self.args, **self.kwargs)

    def model(self, seed: int = 0) -> torch.nn.Module:
        return models.randomise(self.module(*self.args, **self.kwargs), seed).double().eval()


CASES = {
    "mlp": Case(mlp, models.MLP, ((12, 9, 8, 7, 5),), {}, (6, 12)),
    "mlp without bias": Case(mlp, models.MLP, ((12, 9, 5),), {"bias": False}, (6, 12)),
    "vgg16 batch norm": Case(vgg16, models.VGG16, (1 / 8,), {"norm": "batch_norm", **SMALL_VGG}, (2, 2, 32, 32)),
    "vgg16 layer norm": Case(vgg16, models.VGG16, (1 / 8,), {"norm": "layer_norm", **SMALL_VGG}, (2, 2, 32, 32)),
    "vgg16 no norm": Case(vgg16, models.VGG16, (1 / 8,), {"norm": None, **SMALL_VGG}, (2, 2, 32, 32)),
    "vgg16 flattened": Case(vgg16, models.VGG16, (1 / 16,), {"spatial": 2, **SMALL_VGG}, (2, 2, 64, 64)),
    "vgg16 one dense": Case(
        vgg16, models.VGG16, (1 / 16,), {"spatial": 2, **SMALL_VGG, "classifier_widths": ()}, (2, 2, 64, 64)
    ),
    "resnet20 batch norm": Case(resnet20, models.ResNet20, (0.5,), {"norm": "batch_norm"}, (2, 3, 16, 16)),
    "resnet20 layer norm": Case(resnet20, models.ResNet20, (0.5,), {"norm": "layer_norm"}, (2, 3, 16, 16)),
    "resnet50": Case(resnet50, models.ResNet50, (1 / 16,), {"num_classes": 20}, (2, 3, 32, 32)),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these only lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def run(case: Case, model: torch.nn.Module) -> torch.Tensor:
    x = torch.randn(case.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return model(x)


def relative_change(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / a.norm())


def test_fits_the_state_dict_of_the_module(case: Case) -> None:
    spec, state = case.spec(), case.model().state_dict()
    spec.validate(state)
    assert spec.params == tuple(state)
    assert spec.group_sizes(state) == PermutationSpec(spec.axes).group_sizes(state)


def test_permuted_network_computes_the_same_function(case: Case) -> None:
    spec, model = case.spec(), case.model()
    before, state = run(case, model), model.state_dict()
    permuted = apply_permutation(spec, random_permutation(spec, seed=3), state)
    for param, axes in spec.axes.items():
        moved = any(axis is not None for axis in axes)
        assert torch.equal(permuted[param], state[param]) is not moved, param
    model.load_state_dict(permuted)
    assert relative_change(before, run(case, model)) < 1e-10


def test_control_an_array_left_behind_changes_the_function(case: Case) -> None:
    """One array of each group, in turn its first, second, ... member, so that every kind has its turn."""
    spec, model = case.spec(), case.model()
    before, state = run(case, model), {name: value.clone() for name, value in model.state_dict().items()}
    permuted = apply_permutation(spec, random_permutation(spec, seed=3), state)
    for i, members in enumerate(spec.groups.values()):
        param = members[i % len(members)].param
        model.load_state_dict(permuted | {param: state[param]})
        assert relative_change(before, run(case, model)) > 1e-6, param


def test_batch_norm_statistics_are_moved_only() -> None:
    spec = resnet20(0.25)
    assert {name.rpartition(".")[2] for name in spec.moved_only} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert not resnet20(0.25, norm="layer_norm").moved_only


def test_mlp_takes_the_names_of_a_sequential() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    spec = mlp((4, 3, 2), names=("0", "2"))
    spec.validate(module.state_dict())
    assert spec.groups == {"P_0": (Member("0.weight", 0), Member("0.bias", 0), Member("2.weight", 1))}


def test_vgg16_has_torchvisions_indices() -> None:
    def convolutions(spec: PermutationSpec) -> list[int]:
        return [int(name.split(".")[1]) for name, axes in spec.axes.items() if len(axes) == 4]

    assert convolutions(vgg16(norm=None)) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert convolutions(vgg16()) == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert vgg16(norm=None, spatial=7).groups["P_12"][-1] == Member("classifier.0.weight", 1, block=49)
    assert vgg16(num_classes=1000).fixed_lengths == {("features.0.weight", 1): 3} | {
        ("classifier.6.weight", 0): 1000,
        ("classifier.6.bias", 0): 1000,
    }


def test_resnet50_has_torchvisions_names_and_the_ties_of_its_streams() -> None:
    spec = resnet50()
    assert len(spec.params) == 320
    assert {"layer1.0.downsample.1.num_batches_tracked", "layer3.5.conv3.weight", "fc.bias"} <= set(spec.params)
    assert not any("downsample" in name and ".0.down" not in name for name in spec.params)
    assert len(spec.groups) == 37
    assert [spec.sizes[f"P_stream{i}"] for i in (1, 2, 3, 4)] == [256, 512, 1024, 2048]
    assert {member.param for member in spec.groups["P_stem"] if member.axis == 1} == {
        "layer1.0.conv1.weight",
        "layer1.0.downsample.0.weight",
    }
    ties = [member.param for member in spec.groups["P_stream1"] if member.param.endswith(".conv3.weight")]
    assert ties == [f"layer1.{i}.conv3.weight" for i in range(3)]


def test_resnet20_ties_the_stem_to_the_first_stream() -> None:
    spec = resnet20(32)
    assert len(spec.groups) == 12
    assert spec.sizes["P_stream3"] == 2048
    assert Member("conv1.weight", 0) in spec.groups["P_stream1"]
    assert "layer1.0.shortcut.0.weight" not in spec.params
    assert Member("layer2.0.shortcut.0.weight", 1) in spec.groups["P_stream1"]


def test_validate_checks_the_lengths_that_the_builder_was_told() -> None:
    spec = mlp((4, 3, 2))
    state = models.MLP((5, 3, 7)).state_dict()
    with pytest.raises(ValueError, match="3 mismatches") as raised:
        spec.validate(state)
    lines = str(raised.value).splitlines()[1:]
    assert [line.partition("'] has shape ")[0].strip() for line in lines] == [
        "state_dict['layer0.weight",
        "state_dict['layer1.weight",
        "state_dict['layer1.bias",
    ]
    assert "axis 1 has length 5; expected 4" in lines[0]
    assert all("axis 0 has length 7; expected 2" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mlp(5), TypeError, "widths is 5; expected a sequence"),
        (lambda: mlp("45"), TypeError, "widths is '45'"),
        (lambda: mlp((5,)), ValueError, r"widths is \(5,\); expected at least two"),
        (lambda: mlp((5, 0, 2)), ValueError, r"widths\[1\] is 0"),
        (lambda: mlp((5, 2.5, 2)), TypeError, r"widths\[1\] is 2.5"),
        (lambda: mlp((5, True, 2)), TypeError, r"widths\[1\] is True"),
        (lambda: mlp((5, 4, 2), names=("a",)), ValueError, "names is .*; expected 2 distinct names"),
        (lambda: mlp((5, 4, 2), names=("a", "a")), ValueError, "expected 2 distinct names"),
        (lambda: mlp((5, 4, 2), names="ab"), TypeError, "names is 'ab'"),
        (lambda: mlp((5, 4, 2), names=(0, 2)), TypeError, "expected a sequence of strings"),
        (lambda: vgg16("2"), TypeError, "width_multiplier is '2'; expected a number"),
        (lambda: vgg16(0), ValueError, "width_multiplier is 0"),
        (lambda: vgg16(float("nan")), ValueError, "width_multiplier is nan"),
        (lambda: vgg16(-1), ValueError, "width_multiplier is -1"),
        (lambda: vgg16(0.3), ValueError, r"0.3, which makes a width of 64 19.2; expected"),
        (lambda: vgg16(norm="group_norm"), ValueError, "norm is 'group_norm'; expected .* or None"),
        (lambda: vgg16(spatial=0), ValueError, "spatial is 0"),
        (lambda: vgg16(classifier_widths=(64, -1)), ValueError, r"classifier_widths\[1\] is -1"),
        (lambda: vgg16(in_channels=1.0), TypeError, "in_channels is 1.0"),
        (lambda: resnet20(norm=None), ValueError, "norm is None; expected 'batch_norm' or 'layer_norm'"),
        (lambda: resnet20(1 / 32), ValueError, "width_multiplier is 0.03125"),
        (lambda: resnet50(num_classes=0), ValueError, "num_classes is 0"),
        (lambda: resnet50(True), TypeError, "width_multiplier is True"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
