"""Specs of the paper's networks, under the names that torch gives their parameters.

Every builder knows the sizes of its groups and the lengths of its fixed input and output axes, so that
`PermutationSpec.validate` compares a state dict with exactly the network that was asked for.

References
----------
Ainsworth, S. K., Hayase, J. & Srinivasa, S. (2023). Git Re-Basin: Merging Models modulo Permutation Symmetries.
ICLR 2023, arXiv:2209.04836.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from .spec import Axis, PermutationSpec, positive_integer

Norm: TypeAlias = Literal["batch_norm", "layer_norm"]

_VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def mlp(widths: Sequence[int], *, names: Sequence[str] | None = None, bias: bool = True) -> PermutationSpec:
    """Return the spec of a fully connected network.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden units layer by layer, outputs.
    names : sequence of str, optional
        The name of every dense layer; by default ``layer0``, ``layer1``, ... For an `nn.Sequential` of dense layers and
        ReLUs in turn: ``("0", "2", "4")``.
    bias : bool, optional
        Whether the layers have biases.

    Returns
    -------
    PermutationSpec
        Groups ``P_0``, ``P_1``, ..., one for each hidden layer.

    Raises
    ------
    TypeError, ValueError
        If `widths` are not two or more positive integers, or `names` not one distinct string for each layer.

    Examples
    --------
    >>> mlp((784, 512, 10))
    PermutationSpec: 1 group, 4 parameters
    group  size  members
    P_0     512  layer0.weight[0], layer0.bias[0], layer1.weight[1]
    """
    lengths = _positive_integers(widths, "widths")
    if len(lengths) < 2:
        raise ValueError(f"widths is {widths!r}; expected at least two: inputs and outputs")
    module_names = _layer_names(names, len(lengths) - 1)
    layers = _Layers()
    carried: int | str = lengths[0]
    for name, width in zip(module_names[:-1], lengths[1:-1], strict=True):
        outputs = layers.next_group(width)
        layers.dense(name, carried, outputs, bias=bias)
        carried = outputs
    layers.dense(module_names[-1], carried, lengths[-1], bias=bias)
    return layers.spec()


def vgg16(
    width_multiplier: float = 1,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    norm: Norm | None = "batch_norm",
    classifier_widths: Sequence[int] = (4096, 4096),
    spatial: int = 1,
) -> PermutationSpec:
    """Return the spec of VGG16 (Simonyan & Zisserman 2015) under torchvision's names.

    Parameters
    ----------
    width_multiplier : float, optional
        Scales every convolution and every hidden dense layer, as the paper's experiments on width do (those have
        ``classifier_widths=(512, 512)``). All widths must stay whole numbers.
    num_classes, in_channels : int, optional
        Lengths of the output and of the input axis.
    norm : {"batch_norm", "layer_norm", None}, optional
        What follows every convolution. None gives the names of torchvision's ``vgg16``, the others those of
        ``vgg16_bn``.
    classifier_widths : sequence of int, optional
        Hidden units of the dense layers at ``width_multiplier=1``.
    spatial : int, optional
        Height and width of the feature map that is flattened: 1 for CIFAR, 7 for torchvision's ImageNet network.

    Returns
    -------
    PermutationSpec
        Groups ``P_0``, ``P_1``, ..., one for each convolution and each hidden dense layer.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> len(vgg16(0.125).groups)
    15

    References
    ----------
    Simonyan, K. & Zisserman, A. (2015). Very deep convolutional networks for large-scale image recognition.
    ICLR 2015, arXiv:1409.1556.
    """
    block = positive_integer(spatial, "spatial") ** 2
    hidden = _positive_integers(classifier_widths, "classifier_widths")
    if norm is not None:
        _check_norm(norm, "'batch_norm', 'layer_norm' or None")
    layers = _Layers(norm)
    carried: int | str = positive_integer(in_channels, "in_channels")
    index = 0
    for width in _VGG16:
        if isinstance(width, int):
            outputs = layers.next_group(_scaled(width, width_multiplier))
            layers.conv_norm(f"features.{index}", f"features.{index + 1}", carried, outputs, bias=True)
            carried = outputs
            # Convolution, the norm if there is one, ReLU.
            index += 2 if norm is None else 3
        else:
            index += 1
    for i, width in enumerate(hidden):
        outputs = layers.next_group(_scaled(width, width_multiplier))
        # Every hidden layer is followed by ReLU and dropout. Only the first layer sees the flattened feature map.
        layers.dense(f"classifier.{3 * i}", carried, outputs, block=block)
        carried, block = outputs, 1
    classes = positive_integer(num_classes, "num_classes")
    layers.dense(f"classifier.{3 * len(hidden)}", carried, classes, block=block)
    return layers.spec()


def resnet20(
    width_multiplier: float = 1, *, num_classes: int = 10, in_channels: int = 3, norm: Norm = "batch_norm"
) -> PermutationSpec:
    """Return the spec of the CIFAR ResNet20 (He et al. 2016) with convolutions where the shortcut changes the width.

    Parameters
    ----------
    width_multiplier : float, optional
        Scales the 16, 32 and 64 channels of the three stages, which must stay whole numbers.
    num_classes, in_channels : int, optional
        Lengths of the output and of the input axis.
    norm : {"batch_norm", "layer_norm"}, optional
        What follows every convolution. Both go by the same names; layer norm has no running statistics.

    Returns
    -------
    PermutationSpec
        12 groups: ``P_stream1`` to ``P_stream3`` on the residual streams (the first comes out of the stem), and one
        ``P_layerI.J.inner`` inside each block. Parameters: ``conv1``, ``bn1``, ``layerI.J.conv1``, ``layerI.J.bn1``,
        ``layerI.J.conv2``, ``layerI.J.bn2``, ``layerI.0.shortcut.0`` and ``.1`` for I > 1, ``linear``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> spec = resnet20(32, norm="layer_norm")
    >>> len(spec.groups), spec.sizes["P_stream3"]
    (12, 2048)

    References
    ----------
    He, K., Zhang, X., Ren, S. & Sun, J. (2016). Deep residual learning for image recognition. CVPR 2016,
    doi:10.1109/CVPR.2016.90, section 4.2.
    """
    _check_norm(norm, "'batch_norm' or 'layer_norm'")
    layers = _Layers(norm)
    carried = layers.group("P_stream1", _scaled(16, width_multiplier))
    layers.conv_norm("conv1", "bn1", positive_integer(in_channels, "in_channels"), carried)
    for stage, base in enumerate((16, 32, 64), start=1):
        width = _scaled(base, width_multiplier)
        outputs = layers.group(f"P_stream{stage}", width)
        for block in (f"layer{stage}.{i}" for i in range(3)):
            layers.residual_block(block, carried, (layers.group(f"P_{block}.inner", width), outputs), "shortcut")
            carried = outputs
    layers.dense("linear", carried, positive_integer(num_classes, "num_classes"))
    return layers.spec()


def resnet50(width_multiplier: float = 1, *, num_classes: int = 1000, in_channels: int = 3) -> PermutationSpec:
    """Return the spec of ResNet50 (He et al. 2016) under torchvision's names, for a whole state dict.

    Parameters
    ----------
    width_multiplier : float, optional
        Scales all channels (64 to 2048), which must stay whole numbers.
    num_classes, in_channels : int, optional
        Lengths of the output and of the input axis.

    Returns
    -------
    PermutationSpec
        37 groups: ``P_stem``, which no residual connection ties to another layer, ``P_stream1`` to ``P_stream4``, and
        ``P_layerI.J.inner1`` and ``.inner2`` inside each of the 16 bottleneck blocks.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> len(resnet50().groups)
    37

    References
    ----------
    He, K., Zhang, X., Ren, S. & Sun, J. (2016). Deep residual learning for image recognition. CVPR 2016,
    doi:10.1109/CVPR.2016.90.
    """
    layers = _Layers("batch_norm")
    carried = layers.group("P_stem", _scaled(64, width_multiplier))
    layers.conv_norm("conv1", "bn1", positive_integer(in_channels, "in_channels"), carried)
    for stage, (base, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        width = _scaled(base, width_multiplier)
        outputs = layers.group(f"P_stream{stage}", 4 * width)
        for block in (f"layer{stage}.{i}" for i in range(blocks)):
            inner1, inner2 = (layers.group(f"P_{block}.inner{i}", width) for i in (1, 2))
            layers.residual_block(block, carried, (inner1, inner2, outputs), "downsample")
            carried = outputs
    layers.dense("fc", carried, positive_integer(num_classes, "num_classes"))
    return layers.spec()


class _Layers:
    """Collects the axes of a network layer by layer, in the order of torch's state dict.

    Inputs and outputs of a layer are a group (str), or the length of a fixed axis (int).
    """

    def __init__(self, norm: Norm | None = None) -> None:
        self._norm = norm
        self._sizes: dict[str, int] = {}
        self._axes: dict[str, tuple[Axis | None, ...]] = {}
        self._fixed_lengths: dict[tuple[str, int], int] = {}

    def group(self, name: str, size: int) -> str:
        self._sizes[name] = size
        return name

    def next_group(self, size: int) -> str:
        return self.group(f"P_{len(self._sizes)}", size)

    def dense(self, name: str, inputs: int | str, outputs: int | str, *, bias: bool = True, block: int = 1) -> None:
        self._add(f"{name}.weight", outputs, inputs, block=block)
        if bias:
            self._add(f"{name}.bias", outputs)

    def conv(self, name: str, inputs: int | str, outputs: str, *, bias: bool = False) -> None:
        self._add(f"{name}.weight", outputs, inputs, None, None)
        if bias:
            self._add(f"{name}.bias", outputs)

    def normalise(self, name: str, group: str) -> None:
        if self._norm is None:
            return
        statistics = ("running_mean", "running_var") if self._norm == "batch_norm" else ()
        for part in ("weight", "bias", *statistics):
            self._add(f"{name}.{part}", group)
        if self._norm == "batch_norm":
            self._add(f"{name}.num_batches_tracked")

    def conv_norm(self, conv: str, norm: str, inputs: int | str, outputs: str, *, bias: bool = False) -> None:
        self.conv(conv, inputs, outputs, bias=bias)
        self.normalise(norm, outputs)

    def residual_block(self, name: str, stream: str, groups: Iterable[str], shortcut: str) -> None:
        """Convolutions with the outputs `groups`; the sum ties the last of them to `stream`, or to its shortcut."""
        carried = stream
        for i, group in enumerate(groups, start=1):
            self.conv_norm(f"{name}.conv{i}", f"{name}.bn{i}", carried, group)
            carried = group
        if carried != stream:
            self.conv_norm(f"{name}.{shortcut}.0", f"{name}.{shortcut}.1", stream, carried)

    def spec(self) -> PermutationSpec:
        return PermutationSpec(self._axes, sizes=self._sizes, fixed_lengths=self._fixed_lengths)

    def _add(self, param: str, *axes: int | str | None, block: int = 1) -> None:
        """Add a parameter; `block` is that of its second axis, on which a dense layer has its inputs."""
        blocks = (1, block, 1, 1)
        self._axes[param] = tuple(
            Axis(axis, width) if isinstance(axis, str) else None for axis, width in zip(axes, blocks, strict=False)
        )
        self._fixed_lengths |= {(param, i): axis for i, axis in enumerate(axes) if isinstance(axis, int)}


def _scaled(width: int, multiplier: float) -> int:
    if isinstance(multiplier, bool) or not hasattr(multiplier, "__float__"):
        raise TypeError(f"width_multiplier is {multiplier!r}; expected a number")
    scaled = width * float(multiplier)
    if not math.isfinite(scaled) or scaled < 1 or not scaled.is_integer():
        raise ValueError(
            f"width_multiplier is {multiplier!r}, which makes a width of {width} {scaled:g}; "
            "expected a number that leaves every width a positive integer"
        )
    return int(scaled)


def _positive_integers(values: Any, name: str) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}; expected a sequence of positive integers")
    return tuple(positive_integer(value, f"{name}[{i}]") for i, value in enumerate(values))


def _layer_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"layer{i}" for i in range(count))
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names is {names!r}; expected a sequence of strings")
    if len(set(names)) != count or len(names) != count:
        raise ValueError(f"names is {names!r}; expected {count} distinct names, one for each layer")
    return tuple(names)


def _check_norm(norm: object, expected: str) -> None:
    if norm not in ("batch_norm", "layer_norm"):
        raise ValueError(f"norm is {norm!r}; expected {expected}")
