"""What the tracer must not do: promise symmetries that are none, read weights, or leave marks on the model."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import models
from rebasin_fast import PermutationSpec, apply_permutation, random_permutation, resnet20, resnet50, vgg16
from rebasin_fast.architectures import mlp
from rebasin_fast.tracing.known import digits_of
from rebasin_fast.tracing.strides import Layout, kept_axes
from test_tracing import groups_of
from traced_models import Apply, around


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trace(model: nn.Module, *shape: int) -> PermutationSpec:
    return PermutationSpec.from_module(model, torch.zeros(shape))


# ---- the paper's networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "model", "shape"),
    [
        (mlp((12, 9, 8, 7, 5)), lambda: models.MLP((12, 9, 8, 7, 5)), (6, 12)),
        (vgg16(1 / 8), lambda: models.VGG16(1 / 8), (2, 3, 32, 32)),
        (vgg16(1 / 16, norm=None, spatial=2), lambda: models.VGG16(1 / 16, norm=None, spatial=2), (2, 3, 64, 64)),
        (resnet20(0.5), lambda: models.ResNet20(0.5), (2, 3, 16, 16)),
        (resnet20(norm="layer_norm"), lambda: models.ResNet20(norm="layer_norm"), (2, 3, 16, 16)),
        (resnet50(1 / 16, num_classes=20), lambda: models.ResNet50(1 / 16, num_classes=20), (2, 3, 32, 32)),
    ],
    ids=["mlp", "vgg16", "vgg16 flattened", "resnet20", "resnet20 layer norm", "resnet50"],
)
def test_traced_equals_written_down(
    written: PermutationSpec, model: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        traced = trace(model(), *shape)
    assert traced.equivalent(written)
    assert written.equivalent(traced)
    assert written.fixed_lengths.items() <= traced.fixed_lengths.items()


def test_equivalent_is_not_equal_to_everything() -> None:
    spec = mlp((3, 4, 4, 2))
    axes = spec.to_axes_to_perm()
    assert not spec.equivalent(mlp((3, 4, 5, 2)))
    assert not spec.equivalent(
        PermutationSpec.from_axes_to_perm(axes | {"layer1.bias": ("P_0",)}, sizes={"P_0": 4, "P_1": 4})
    )
    swapped = {param: tuple({"P_0": "P_1", "P_1": "P_0"}.get(a, a) for a in entry) for param, entry in axes.items()}  # type: ignore[arg-type]
    assert spec.equivalent(PermutationSpec.from_axes_to_perm(swapped, sizes={"P_0": 4, "P_1": 4}))


# ---- in doubt, frozen -------------------------------------------------------------------------------------------


@torch.library.custom_op("rebasin_fast_tests::reverse", mutates_args=())
def reverse(x: Tensor) -> Tensor:
    return x.flip(-1)


@reverse.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("rebasin_fast_tests::reverse_in_place", mutates_args=("x",))
def reverse_in_place(x: Tensor) -> None:
    x.copy_(x.flip(-1))


def _reversed_in_place(m: Any, h: Tensor) -> Tensor:
    h = m.a(h)
    reverse_in_place(h)
    return h


def _view_of_zeros_written(m: Any, h: Tensor) -> Tensor:
    zeros = torch.zeros(h.shape[0], 12)
    part = zeros[:, :6]
    part += h[:, 6:]
    return zeros + h


def _indexed_writes(m: Any, h: Tensor) -> Tensor:
    h = h.clone()
    h[:, torch.tensor([0, 3])] = 0
    return h


def _masked(m: Any, h: Tensor) -> Tensor:
    h = h.clone()
    h[m.a(h) > 0] = 0
    return h


SILENT = {
    "a mask of other units": lambda: around(_masked, a=nn.Linear(12, 12)),
    "what a mask chooses": lambda: around(lambda m, h: h + h[m.a(h) > 0].mean(), a=nn.Linear(12, 12)),
    "an operator without a rule": lambda: around(lambda m, h: reverse(h)),
    "one that writes in place": lambda: around(_reversed_in_place, a=nn.Linear(12, 12)),
    "a view of equal elements that is written to": lambda: around(_view_of_zeros_written),
    "writing by index": lambda: around(_indexed_writes),
    "reading by index": lambda: around(lambda m, h: h[:, [1, 0, *range(2, 12)]]),
    "a constant": lambda: around(lambda m, h: h * torch.arange(12)),
    "a mask": lambda: around(lambda m, h: h * torch.ones(12, 12).tril()[3]),
    "a buffer outside the state dict": lambda: _with_buffer(),
    "strides": lambda: around(lambda m, h: h.as_strided((3, 12), (1, 3))),
    "FFT": lambda: around(lambda m, h: torch.fft.fft(h).real),
    "a matrix function": lambda: around(lambda m, h: h @ torch.linalg.qr(m.a.weight).Q, a=nn.Linear(12, 12)),
    "places of largest values": lambda: around(lambda m, h: h + h.argmax(-1, keepdim=True)),
    "order of values": lambda: around(lambda m, h: h + h.argsort(-1)),
    "differences": lambda: around(lambda m, h: torch.diff(h), after=11),
    "half of it": lambda: around(lambda m, h: h[:, 1:] + h[:, :-1], after=11),
    "a kernel along the units": lambda: around(lambda m, h: m.a(h[:, None])[:, 0], a=nn.Conv1d(1, 1, 3), after=10),
    "pooling along the units": lambda: around(lambda m, h: nn.functional.max_pool1d(h, 2), after=6),
    "gather": lambda: around(lambda m, h: h.gather(1, torch.tensor([[0, 1, 2]] * 3)), after=3),
    "a recurrence over units": lambda: around(
        lambda m, h: m.a(h[..., None])[0][..., 0], a=nn.LSTM(1, 1, batch_first=True)
    ),
}

STILL_FREE = {"one that writes in place", "a view of equal elements that is written to", "reading by index"}
"""Where the first layer's units are free all the same: before another layer, in two halves that go together, or those
that are read as a part."""


def _with_buffer() -> nn.Module:
    model = around(lambda m, h: h * m.scale)
    model.register_buffer("scale", torch.arange(12.0), persistent=False)
    return model


@pytest.mark.parametrize("name", SILENT)
def test_hidden_units_that_cannot_be_reordered_are_frozen(name: str) -> None:
    torch.manual_seed(0)
    model = SILENT[name]().double()
    x = torch.randn(3, 5, dtype=torch.float64)
    spec = PermutationSpec.from_module(model, x)
    proof = spec.prove(model, x, rtol=1e-9, trials=8)
    assert proof, str(proof)
    assert set(spec.groups) == ({"inp"} if name in STILL_FREE else set())


@pytest.mark.parametrize("inputs", [torch.zeros(0, 4), torch.full((2, 4), torch.nan)], ids=["no example", "NaN"])
def test_outputs_without_a_number_prove_nothing(inputs: Tensor) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    spec = PermutationSpec.from_axes_to_perm(
        {"0.weight": ("P", None), "0.bias": (None,), "1.weight": (None, None), "1.bias": (None,)}
    )
    assert not spec.prove(model, torch.randn(2, 4))
    with pytest.raises(ValueError, match="no finite number"):
        spec.prove(model, inputs)


def test_unknown_operators_are_reported_with_their_module() -> None:
    class Reverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return reverse(x)

    report = trace(nn.Sequential(nn.Linear(4, 6), nn.Sequential(Reverse()), nn.Linear(6, 2)), 3, 4).report()
    assert report.unknown_operators == (("rebasin_fast_tests.reverse", "1.0"),)
    why = {(axis.param, axis.axis): (axis.operator, axis.module) for axis in report.frozen}
    assert why["0.weight", 0] == why["2.weight", 1] == ("rebasin_fast_tests.reverse", "1.0")
    assert why["0.weight", 1] == ("input", "")
    assert why["2.bias", 0] == ("output", "")
    assert "rebasin_fast_tests.reverse in 1.0" in str(report)


def test_every_axis_is_in_a_group_or_has_a_reason() -> None:
    spec = trace(models.ResNet20(0.25), 2, 3, 16, 16)
    why = {(axis.param, axis.axis) for axis in spec.report().frozen}
    for param, axes in spec.axes.items():
        for i, axis in enumerate(axes):
            assert (axis is None) == ((param, i) in why), (param, i)
    assert all(bool(axis.operator) for axis in spec.report().frozen)
    kernels = {axis.operator for axis in spec.report().frozen if axis.axis > 1}
    assert kernels == {"aten.convolution", "a single position"}


def test_outputs_are_frozen_wherever_they_lie() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor, wrap: Callable[..., Any]) -> Any:
            h = torch.relu(self.a(x))
            return wrap(h, self.c(torch.relu(self.b(h))))

    class Holder:
        def __init__(self, *held: Any) -> None:
            self.held = held

    for wrap in (lambda *t: t, lambda *t: {"deep": [t[0]], "out": t[1]}, Holder):
        spec = PermutationSpec.from_module(Two(), {"x": torch.zeros(3, 4), "wrap": wrap})
        assert spec.group_sizes() == {"b": 7}
    hidden = PermutationSpec.from_module(Two(), {"x": torch.zeros(3, 4), "wrap": lambda *t: t[1]})
    assert hidden.group_sizes() == {"a": 6, "b": 7}


def test_parameters_that_the_forward_pass_leaves_out_are_frozen() -> None:
    model = around(lambda m, h: h, spare=nn.Linear(12, 12))
    why = {axis.param: axis.operator for axis in trace(model, 3, 5).report().frozen}
    assert why["spare.weight"] == why["spare.bias"] == "not used in the traced forward pass"


def test_positions_beyond_the_example_are_frozen() -> None:
    """Two tables of positions, cut to the length of the example: the rest looks free, and is used by longer inputs."""
    model = Apply(
        lambda m, x: m.out(m.inp(x) + (m.one * m.two)[: x.shape[1]]),
        inp=nn.Linear(5, 6), out=nn.Linear(6, 2),
    )  # fmt: skip
    model.one, model.two = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.randn(9, 6))
    spec = trace(model, 2, 4, 5)
    assert spec.axes["one"][0] is None
    assert spec.prove(model, torch.randn(2, 7, 5))


@pytest.mark.parametrize("view", [lambda weight: weight, lambda weight: weight[:6]])
def test_a_parameter_in_a_plain_list_is_frozen(view: Callable[[Tensor], Tensor]) -> None:
    """What is not an attribute of its module is not replaced; when the model is loaded anew, it moves all the same."""
    model = around(lambda m, h: m.a(h) + h.sum() * m.held[0].sum(), a=nn.Linear(12, 12))
    with torch.no_grad():
        model.held = [view(model.a.weight)]
    why = {(axis.param, axis.axis): axis.operator for axis in trace(model, 3, 5).report().frozen}
    assert why["a.weight", 0] == why["a.weight", 1] == "a reference to the parameter past its module"


# ---- tied parameters --------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, parameter: bool = True) -> None:
        super().__init__()
        self.emb, self.mid, self.head = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        if parameter:
            self.head.weight = self.emb.weight
        else:
            self.head.weight.data = self.emb.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mid(self.emb(x))))


@pytest.mark.parametrize("parameter", [True, False])
def test_tied_embeddings_move_together(parameter: bool) -> None:
    model, tokens = Tied(parameter), torch.arange(8).reshape(2, 4)
    spec = PermutationSpec.from_module(model, tokens)
    assert spec.axes["emb.weight"] == spec.axes["head.weight"]
    assert spec.group_sizes() == {"emb": 6}
    assert spec.prove(model, tokens)
    moved = apply_permutation(spec, random_permutation(spec, 0), model.state_dict())
    assert moved["emb.weight"].data_ptr() == moved["head.weight"].data_ptr()


def test_memory_shared_in_part_is_frozen() -> None:
    model = around(lambda m, h: m.a(h), a=nn.Linear(12, 12))
    whole = torch.randn(13, 12)
    model.a.weight.data, model.inp.weight.data = whole[1:], whole.view(-1)[:60].view(12, 5)
    spec = trace(model, 3, 5)
    assert spec.axes["inp.weight"] == spec.axes["a.weight"] == (None, None)


# ---- the model stays as it was ----------------------------------------------------------------------------------


def test_nothing_is_left_on_the_model() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
            self.calls, self.last, self.cache, self.log = 0, None, {}, []

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = self.inner(x)
            self.log.append(self.cache.setdefault("positions", torch.arange(3)))
            self.note = 3
            return self.last

    model = Caching().train()
    model.inner[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    spec = trace(model, 3, 4)
    spec.prove(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert (model.calls, model.last, model.cache, model.log, hasattr(model, "note")) == (0, None, {}, [], False)
    assert [m.training for m in model.modules()] == [True, True, True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not model._forward_hooks
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_hundred_layers_on_the_meta_device_() -> None:
    with torch.device("meta"):
        layers = [nn.TransformerEncoderLayer(4096, 32, 16384, batch_first=True, norm_first=True) for _ in range(100)]
        model = nn.Sequential(nn.Linear(7, 4096), *layers, nn.Linear(4096, 3))
    spec = trace(model, 2, 3, 7)  # 20 billion parameters
    assert len(spec.groups) == 1 + 100 * 4
    assert spec.sizes is not None
    assert spec.sizes["0"] == 4096


# ---- what cannot be traced, and proofs --------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_path_that_depends_on_values_is_followed_with_a_warning(tmp_path: Path) -> None:
    model = models.randomise(nn.Sequential(nn.Linear(4, 6), Branch(), nn.Linear(6, 2)), seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spec = trace(model, 3, 4)
    (warning,) = spec.report().warnings
    assert "depends on values" in warning
    assert f"warning: {warning}" in str(spec.report())
    assert set(spec.groups) == {"0"}
    assert spec.prove(model, torch.randn(3, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    spec.save(tmp_path / "spec.json")
    assert PermutationSpec.load(tmp_path / "spec.json").report().warnings == (warning,)


def test_without_values_such_a_path_is_an_error_that_says_where() -> None:
    with pytest.raises(ValueError, match=r"cannot be traced: .* depends on the values of a tensor; .*\) in 1"):
        trace(nn.Sequential(nn.Linear(4, 6), Branch()).to("meta"), 3, 4)


LEAVING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "numbers read by tolist": lambda m, h: h + sum(h.sum(0).tolist()[:3]),
    "numbers read by numpy": lambda m, h: h + float(h.detach().numpy()[:, :2].sum()),
    "aten._local_scalar_dense": lambda m, h: h + float(h[0].argmax()),
}


@pytest.mark.parametrize("how", LEAVING)
def test_numbers_that_leave_the_tensors_freeze_what_they_depend_on(how: str) -> None:
    torch.manual_seed(0)
    model = around(LEAVING[how]).double()
    spec = PermutationSpec.from_module(model, torch.randn(3, 5, dtype=torch.float64))
    assert not spec.groups
    assert how in {axis.operator for axis in spec.report().frozen}


def test_a_number_that_no_order_changes_freezes_nothing() -> None:
    model = around(lambda m, h: h * float(h.abs().max()))
    assert groups_of(PermutationSpec.from_module(model, torch.randn(3, 5))) == Counter(["12"])


# ---- positions that are known -----------------------------------------------------------------------------------

ROLLED = torch.tensor([4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3])


def _changed_indices(m: Any, h: Tensor) -> Tensor:
    index = torch.arange(12)
    index[:6] += 6
    index[6:] -= 6
    return h[:, index]


def _indices_of_values(m: Any, h: Tensor) -> Tensor:
    index = torch.arange(12)
    part = index[2:]
    part[:] = h.sum(0)[2:].argsort() + 1
    return h[:, index]


KNOWN: dict[str, tuple[Callable[[Any, Tensor], Tensor], int, str]] = {
    "one of three": (lambda m, h: h.view(-1, 3, 4)[:, [-2]].flatten(1), 4, "4"),
    "halves swapped": (lambda m, h: h[:, [*range(6, 12), *range(6)]], 12, "6 6"),
    "a constant tensor": (lambda m, h: h[:, ROLLED], 12, "4 8"),
    "shuffled": (lambda m, h: h.index_select(1, torch.arange(12).view(3, 4).t().reshape(-1)), 12, "3 12/3"),
    "every one twice": (lambda m, h: h[:, torch.arange(12).repeat_interleave(2)], 24, "12"),
    "all of it twice": (lambda m, h: h[:, torch.arange(12).repeat(2)], 24, "12"),
    "every other": (lambda m, h: h[:, torch.arange(0, 12, 2)], 6, "6"),
    "in two axes": (lambda m, h: h[:, torch.arange(12).view(3, 4)].sum(1), 4, "4 12/4"),
    "indices that were changed": (_changed_indices, 12, "6 6"),
    "backwards": (lambda m, h: h[:, torch.arange(11, -1, -1)], 12, ""),
    "in no order": (lambda m, h: h[:, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 11, 10]], 12, ""),
    "indices that depend on values": (_indices_of_values, 12, ""),
}


@pytest.mark.parametrize("name", KNOWN)
def test_positions_known_beforehand_leave_what_symmetries_there_are(name: str) -> None:
    read, after, groups = KNOWN[name]
    model = models.randomise(around(read, after=after).double(), seed=0)
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spec = PermutationSpec.from_module(model, x)
    proof = spec.prove(model, x, rtol=1e-9, trials=8)
    assert proof, str(proof)
    assert groups_of(spec) == Counter(groups.split())
    assert not spec.report().warnings


@given(st.lists(st.integers(0, 11), min_size=1, max_size=24))
@settings(max_examples=60, deadline=None)
def test_digits_make_the_positions_again(positions: list[int]) -> None:
    digits = digits_of(np.array(positions))
    if digits is not None:
        again = np.array([positions[0]])
        for count, step in digits:
            again = (again[:, None] + step * np.arange(count)).ravel()
        assert again.tolist() == positions


def test_an_operator_of_which_only_the_shape_is_used_binds_nothing() -> None:
    def shaped(m: Any, h: Tensor) -> Tensor:
        return h * h[:, -1].shape[0]

    spec = PermutationSpec.from_module(around(shaped), torch.zeros(3, 5))
    assert groups_of(spec) == Counter(["12"])


def test_what_methods_have_cached_is_forgotten() -> None:
    class Cached(nn.Module):
        @staticmethod
        @functools.lru_cache
        def table(size: int) -> Tensor:
            return torch.ones(size)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.table(x.shape[-1])

    model = nn.Sequential(nn.Linear(4, 6), Cached(), nn.Linear(6, 2))
    spec = trace(model, 3, 4)
    assert type(Cached.table(6)) is Tensor
    assert spec.prove(model, torch.randn(3, 4))


def test_a_forward_pass_that_fails_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be traced"):
        trace(nn.Linear(4, 6), 3, 5)


def test_not_a_module() -> None:
    with pytest.raises(TypeError, match=r"model is of type dict; expected a torch.nn.Module"):
        PermutationSpec.from_module({}, torch.zeros(2))
    with pytest.raises(TypeError, match=r"model is of type dict"):
        mlp((2, 3, 1)).prove({}, torch.zeros(2))


def test_modules_of_torchscript_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(4, 6))
    with pytest.raises(ValueError, match=r"model is compiled by torch.jit; expected the module that it was made from"):
        trace(scripted, 3, 4)
    with pytest.raises(ValueError, match=r"model holds '0', which is compiled by torch.jit"):
        mlp((4, 6, 1), names=("0", "1")).prove(nn.Sequential(scripted, nn.Linear(6, 1)), torch.zeros(3, 4))


def test_proofs_compute_in_float64_what_the_model_makes_into_tensors_itself() -> None:
    smallest = torch.finfo(torch.float64).min
    model = Apply(
        lambda m, x: m.out(torch.relu(m.inp(x)) + torch.full((), smallest if x.dtype == torch.float64 else -1.0) * 0),
        inp=nn.Linear(4, 6), out=nn.Linear(6, 2),
    )  # fmt: skip
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    proof = trace(model, 3, 4).prove(model, x, rtol=1e-9)
    assert proof
    assert proof.dtype == "float64"
    assert torch.get_default_dtype() == torch.float32


def test_a_wrong_spec_is_refuted_and_the_group_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5 * 4, 2))
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    right = PermutationSpec.from_module(model, x)
    assert right.prove(model, x)
    axes = dict(right.to_axes_to_perm()) | {"3.weight": (None, "4 * 1")}
    wrong = PermutationSpec.from_axes_to_perm(axes, sizes=right.sizes)
    proof = wrong.prove(model, x)
    assert not proof
    assert proof.broken_groups == ("1",)
    assert "does not hold" in str(proof)
    assert "by these groups alone: 1" in str(proof)


def test_a_spec_whose_blocks_are_torn_apart_is_refuted() -> None:
    model = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (3, 4)), nn.Softmax(-1), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(6, 5)
    right = PermutationSpec.from_module(model, x)
    assert right.blocks == {"0": "0.blocks"}
    assert right.prove(model, x)
    wrong = PermutationSpec.from_axes_to_perm(right.to_axes_to_perm(), sizes={"0": 12})
    assert not wrong.prove(model, x)


def test_proofs_need_values() -> None:
    with pytest.raises(ValueError, match="meta device"):
        mlp((2, 3, 1), names=("0", "1")).prove(
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).to("meta"), torch.zeros(1, 2)
        )
    with pytest.raises(ValueError, match="trials is 0"):
        mlp((2, 3, 1), names=("0", "1")).prove(
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), torch.zeros(1, 2), trials=0
        )


def test_half_precision_and_integers_in_the_state_dict() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).to(torch.bfloat16)
    spec = trace(model.float(), 3, 4)
    proof = spec.prove(model.to(torch.bfloat16), torch.randn(3, 4))
    assert proof
    assert proof.dtype == "float64"


def test_numpy_arrays_move_as_tensors_do() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 7, batch_first=True), nn.Linear(8, 2))
    spec = trace(model, 2, 3, 5)
    p = random_permutation(spec, 0)
    tensors = apply_permutation(spec, p, model.state_dict())
    arrays = apply_permutation(spec, p, {name: t.numpy() for name, t in model.state_dict().items()})
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


# ---- memory looked at otherwise, and other operators of the model zoo -------------------------------------------


def _windows(m: Any, h: Tensor) -> Tensor:
    """Windows of four tokens, every two, as Longformer makes them: heads beside the batch, units behind."""
    b, t, _ = h.shape
    y = h.view(b, t, 3, 4).transpose(1, 2).reshape(3 * b, t, 4)
    y = y.as_strided((3 * b, t // 2 - 1, 4, 4), (t * 4, 8, 4, 1)).softmax(-1).sum(2)
    return y.view(b, 3, -1, 4).transpose(1, 2).flatten(2)


def _overlapping(m: Any, h: Tensor) -> Tensor:
    """Windows that cross from one token into the next: units have no order of their own left."""
    return h.contiguous().as_strided((h.shape[0], h.shape[1] * 2 - 1, 12), (h.shape[1] * 12, 6, 1))


def _images_among_tokens(m: Any, h: Tensor) -> Tensor:
    mask = torch.zeros(h.shape[:2], dtype=torch.bool)
    mask[:, 1:3] = True
    return h.masked_scatter(mask.unsqueeze(-1).expand_as(h), m.side(h[:, :2]))


def _images_by_a_mask_of_tokens(m: Any, h: Tensor) -> Tensor:
    mask = (torch.arange(h.shape[1]) % 2 == 0).expand(h.shape[:2]).unsqueeze(-1)
    torch._assert_async(mask.any())
    return h.masked_scatter(mask, torch.cat([m.side(h[:, :3]), m.side(h[:, 3:])]).flatten(0, 1))


def _scattered_at_random(m: Any, h: Tensor) -> Tensor:
    mask = torch.arange(h.numel()).view_as(h) % 3 == 0
    return h.masked_scatter(mask, m.side(h))


def _delta_rule(m: Any, h: Tensor) -> Tensor:
    """Triangular systems along the tokens, for every head; the units of the right-hand side are solved for alike."""
    k, v = (y.unflatten(-1, (3, 4)).transpose(1, 2) for y in (m.keys(h), m.side(h)))
    a = torch.eye(h.shape[1], dtype=h.dtype) + (k @ k.mT).tril(-1) / 10
    return torch.linalg.solve_triangular(a, v, upper=False, unitriangular=True).transpose(1, 2).flatten(2)


def _whitened(m: Any, h: Tensor) -> Tensor:
    """The solution of a system in the units."""
    c = h.mT @ h + torch.eye(12, dtype=h.dtype) * 3
    return torch.linalg.solve(c, h.mT).mT + (torch.linalg.inv(c) @ h.mT).mT


def _factorised(m: Any, h: Tensor) -> Tensor:
    return (torch.linalg.cholesky(h.mT @ h + torch.eye(12, dtype=h.dtype)) @ h.mT).mT


def _factors_besides(m: Any, h: Tensor) -> Tensor:
    factors = torch.linalg.lu_factor(h.mT @ h + torch.eye(12, dtype=h.dtype))
    return h @ factors.LU


def _codes(m: Any, h: Tensor) -> Tensor:
    """A codebook: its entries lie on no other axis, but are counted by the search and looked up again."""
    return m.codes(torch.cdist(h, m.codes.weight).argmin(-1))


def _bucketed(m: Any, h: Tensor) -> Tensor:
    return m.table(torch.bucketize(h, torch.tensor([-0.5, 0.0, 0.5], dtype=h.dtype))).mean(-1)


OF_THE_ZOO: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "windows in strides": (_windows, "3 12/3"),
    "windows across tokens": (_overlapping, ""),
    "images among tokens": (_images_among_tokens, "12"),
    "images by a mask of tokens": (_images_by_a_mask_of_tokens, "12"),
    "scattered at random": (_scattered_at_random, ""),
    "triangular systems": (_delta_rule, "12 3 12/3 12/3"),
    "systems of units": (_whitened, "12"),
    "Cholesky": (_factorised, ""),
    "LU": (_factors_besides, ""),
    "a codebook": (_codes, "12 10"),
    "buckets": (_bucketed, "12"),
}


@pytest.mark.parametrize("name", OF_THE_ZOO)
def test_operators_of_the_zoo(name: str) -> None:
    read, groups = OF_THE_ZOO[name]
    layers = {"side": nn.Linear(12, 12), "keys": nn.Linear(12, 12), "table": nn.Embedding(4, 6)}
    layers["codes"] = nn.Embedding(10, 12)
    used = {name: layer for name, layer in layers.items() if name in read.__code__.co_names}
    model = models.randomise(around(read, **used).double(), seed=0)
    x = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spec = PermutationSpec.from_module(model, x)
    assert not spec.report().unknown_operators
    proof = spec.prove(model, x, rtol=1e-9, trials=8)
    assert proof, str(proof)
    assert groups_of(spec) == Counter(groups.split())


@functools.lru_cache
def _table(size: int) -> Tensor:
    return torch.ones(size)


def test_what_functions_have_cached_is_forgotten() -> None:
    class Cached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * _table(x.shape[-1])

    model = nn.Sequential(nn.Linear(4, 6), Cached(), nn.Linear(6, 2))
    spec = trace(model, 3, 4)
    assert type(_table(6)) is Tensor
    assert spec.prove(model, torch.randn(3, 4))


def test_a_table_read_pair_by_pair_is_traced_in_no_time() -> None:
    """Relative positions: 4096 lookups in one axis of 127 entries, none of which can move; the heads can."""
    model = around(lambda m, h: h + m.table[:, apart].sum((-2, -1)).repeat_interleave(4), 12)
    model.table = nn.Parameter(torch.randn(3, 127))
    apart = torch.arange(64)[:, None] - torch.arange(64) + 63
    spec = trace(model, 3, 5)
    assert groups_of(spec) == Counter(["3", "12/3"])


def test_the_error_is_that_of_the_run_with_values_where_one_without_cannot_go_on() -> None:
    class Checks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(torch.unique_consecutive(x)) != 1:
                raise ValueError("all rows must be equal")
            return x

    with pytest.raises(ValueError, match=r"cannot be traced: ValueError: all rows must be equal in 1"):
        PermutationSpec.from_module(nn.Sequential(nn.Linear(4, 6), Checks()), torch.randn(3, 4))


def test_a_forward_pass_that_fails_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="cannot be traced"):
        trace(nn.Linear(4, 6), 3, 5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (Layout((5, 8, 3), (24, 3, 1), 0), Layout((5, 3, 4, 3), (24, 6, 3, 1), 0), {0: 0, 3: 2}),
        (Layout((8, 2, 4, 8), (8, 256, 64, 1), 0), Layout((8, 3, 4, 8), (8, 128, 64, 1), 0), {0: 0, 3: 3}),
        (Layout((4, 3), (3, 1), 0), Layout((3, 4), (1, 3), 0), {0: 1, 1: 0}),
        (Layout((4, 3), (3, 1), 5), Layout((3, 3), (3, 1), 8), {1: 1}),
        (Layout((4, 3), (3, 1), 0), Layout((4, 3), (2, 1), 0), {}),  # rows overlap
        (Layout((4, 3), (3, 1), 0), Layout((4, 3), (3, 1), 1), None),  # beyond the end
        (Layout((4, 3), (0, 1), 0), Layout((12,), (1,), 0), None),  # repeated in memory
    ],
)
def test_axes_that_other_strides_keep(old: Layout, new: Layout, kept: dict[int, int] | None) -> None:
    assert kept_axes(old, new) == kept


# ---- parts of what is used as a whole -----------------------------------------------------------------------------


class _Sliced(nn.Module):
    """A part as long as the input, of a table or of what a layer makes; beside it something looks at all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scales = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(16, 1))
        self.inp, self.weights, self.out = nn.Linear(5, 8), nn.Linear(5, 16), nn.Linear(8, 2)


def _centred_table(m: Any, x: Tensor) -> Tensor:
    table = m.table * m.scales
    return m.out(torch.tanh(m.inp(x) + table[: x.shape[1]] - table.mean(0)))


def _weights_of_positions(m: Any, x: Tensor) -> Tensor:
    weights = m.weights(x).exp()
    return m.out(torch.tanh((weights[..., : x.shape[1]] / weights.sum(-1, keepdim=True)) @ m.inp(x)))


@pytest.mark.parametrize("forward", [_centred_table, _weights_of_positions])
def test_what_other_inputs_may_cut_elsewhere_stays(forward: Callable[[Any, Tensor], Tensor]) -> None:
    class Model(_Sliced):
        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    torch.manual_seed(0)
    model = Model().double()
    spec = PermutationSpec.from_module(model, torch.randn(2, 8, 5, dtype=torch.float64))
    assert 8 in (spec.sizes or {}).values()
    for length in (3, 8, 13):
        proof = spec.prove(model, torch.randn(2, length, 5, dtype=torch.float64), rtol=1e-9)
        assert proof, str(proof)


def test_a_proof_puts_back_the_default_dtype_after_an_error() -> None:
    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.get_default_dtype() == torch.float64:
                raise KeyError("in the model")
            return super().forward(x)

    model = Fails(3, 2)
    spec, before, state = trace(nn.Linear(3, 2), 4, 3), torch.get_default_dtype(), torch.get_rng_state()
    with pytest.raises(KeyError, match="in the model"):
        spec.prove(model, torch.zeros(4, 3))
    assert torch.get_default_dtype() == before
    assert torch.equal(torch.get_rng_state(), state)
