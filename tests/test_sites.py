"""Where groups show in a model: every group of the paper's networks is found, and what is unclear is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import MLP, VGG16, ResNet20, ResNet50
from rebasin_fast import ActivationSite, PermutationSpec, activation_sites, mlp, resnet20, resnet50, vgg16
from rebasin_fast.sites import sites_by_group


def described(spec, model, side):
    return [(str(site), site.group, site.axis, site.block) for site in activation_sites(spec, model, side)]


def test_dense_layers():
    spec, model = mlp((4, 8, 6, 2)), MLP((4, 8, 6, 2))
    assert described(spec, model, "input") == [
        ("input of 'layer1'", "P_0", -1, 1),
        ("input of 'layer2'", "P_1", -1, 1),
    ]
    assert described(spec, model, "output") == [
        ("output of 'layer0'", "P_0", -1, 1),
        ("output of 'layer1'", "P_1", -1, 1),
    ]


def test_flattened_maps_are_read_in_blocks():
    shape = {"width_multiplier": 0.125, "classifier_widths": (64,), "spatial": 2}
    found = described(vgg16(**shape), VGG16(**shape), "input")
    assert ("input of 'classifier.0'", "P_12", -1, 4) in found
    assert ("input of 'features.3'", "P_0", 1, 1) in found


def test_norms_hide_what_comes_before_them():
    spec, model = resnet20(1), ResNet20(1)
    outputs = {group: [] for group in spec.groups}
    for site in activation_sites(spec, model, "output"):
        outputs[site.group].append(site.module)
    assert outputs["P_stream1"] == ["bn1", "layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2"]
    assert outputs["P_layer2.0.inner"] == ["layer2.0.bn1"]
    assert "layer2.0.shortcut.1" in outputs["P_stream2"]
    inputs = [site.module for site in activation_sites(spec, model, "input") if site.group == "P_stream1"]
    assert inputs == ["layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1", "layer2.0.conv1", "layer2.0.shortcut.0"]


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize(
    ("spec", "build"),
    [
        (resnet20(1, norm="layer_norm"), lambda: ResNet20(1, norm="layer_norm")),
        (resnet50(0.125), lambda: ResNet50(0.125)),
        (vgg16(0.125, norm=None), lambda: VGG16(0.125, norm=None)),
    ],
    ids=["resnet20", "resnet50", "vgg16"],
)
def test_every_group_has_a_site(spec, build, side):
    assert {site.group for site in activation_sites(spec, build(), side)} == set(spec.groups)


def test_transposed_and_grouped_convolutions_embeddings_and_norms():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(7, 4),
            "up": nn.ConvTranspose1d(4, 6, 3),
            "depthwise": nn.Conv1d(6, 6, 3, groups=6),
            "norm": nn.LayerNorm(5),
            "out": nn.Conv1d(6, 5, 1),
        }
    )
    spec = PermutationSpec.from_axes_to_perm(
        {
            "embed.weight": (None, "E"),
            "up.weight": ("E", "U", None),
            "depthwise.weight": ("U", None, None),
            "norm.weight": ("O",),
            "out.weight": ("O", "U", None),
        }
    )
    assert described(spec, model, "input") == [("input of 'up'", "E", 1, 1), ("input of 'out'", "U", 1, 1)]
    assert described(spec, model, "output") == [
        ("output of 'embed'", "E", -1, 1),
        ("output of 'up'", "U", 1, 1),
        ("output of 'depthwise'", "U", 1, 1),
        ("output of 'norm'", "O", -1, 1),
    ]


def test_samples_are_examples_positions_and_entries_of_blocks():
    x = torch.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert ActivationSite("m", "P", axis=1).samples(x, 3).tolist() == x.movedim(1, 2).reshape(-1, 3).tolist()
    blocks = ActivationSite("m", "P", axis=-1, block=2).samples(x[:, 0], 2)
    assert blocks.tolist() == [[0, 2], [1, 3], [12, 14], [13, 15]]
    assert ActivationSite("m", "P").axis_in(x, 3) == 1
    assert ActivationSite("m", "P").axis_in(x, 4) == 2
    assert ActivationSite("m", "P", axis=-1).axis_in(x, 4) == 2


@pytest.mark.parametrize(
    ("site", "shape", "message"),
    [
        (
            ActivationSite("m", "P"),
            (2, 3, 3),
            r"output of 'm' has shape \(2, 3, 3\); expected one axis",
        ),
        (ActivationSite("m", "P"), (3, 2), "of length 3, for 3 units of group 'P'"),
        (ActivationSite("m", "P", "input", 1), (2, 4, 3), "input of 'm' has shape .* expected axis 1 of length 3"),
        (ActivationSite("m", "P", axis=4), (2, 3), "expected axis 4"),
        (ActivationSite("m", "P", axis=-2), (3, 2), "expected axis -2"),
    ],
)
def test_units_that_do_not_lie_there(site, shape, message):
    with pytest.raises(ValueError, match=message):
        site.samples(torch.zeros(shape), 3)


def test_bad_arguments_are_named():
    spec, model = mlp((4, 8, 2)), MLP((4, 8, 2))
    with pytest.raises(TypeError, match="the output of 'm' is a tuple; expected a torch tensor"):
        ActivationSite("m", "P").samples((1, 2), 3)
    with pytest.raises(ValueError, match="side is 'both'"):
        ActivationSite("m", "P", "both")
    with pytest.raises(ValueError, match="axis is 0 at 'm'"):
        ActivationSite("m", "P", axis=0)
    with pytest.raises(ValueError, match="side is 'both'"):
        activation_sites(spec, model, "both")
    with pytest.raises(TypeError, match="spec is of type dict"):
        activation_sites({}, model)
    with pytest.raises(TypeError, match="model is a dict"):
        activation_sites(spec, {})
    for sites, error, message in (
        (3, TypeError, "sites is of type int"),
        ({"Q": ["layer0"]}, ValueError, r"sites has the groups \['Q'\]"),
        ({"P_0": "layer0"}, TypeError, r"sites\['P_0'\] is 'layer0'; expected a sequence"),
        ({"P_0": [3]}, TypeError, r"sites\['P_0'\] holds a int"),
        ({"P_0": ["nowhere"]}, ValueError, r"names the modules \['nowhere'\]"),
        ({"P_0": [ActivationSite("layer0", "Q")]}, ValueError, "holds a site of group 'Q'"),
        ({}, ValueError, r"leaves the groups \['P_0'\] without"),
    ):
        with pytest.raises(error, match=message):
            sites_by_group(spec, model, sites)


def test_the_other_side_stands_in():
    """Nothing reads group P: what writes it is taken instead."""
    spec = PermutationSpec.from_axes_to_perm({"0.weight": ("P", None)})
    model = nn.Sequential(nn.Linear(3, 4, bias=False))
    assert sites_by_group(spec, model, "input") == {"P": (ActivationSite("0", "P", "output", -1),)}
