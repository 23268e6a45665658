"""Runs a model on tensors without data, and applies the rule of every operator on the way.

The model runs once, in evaluation mode, with all its parameters, buffers and inputs replaced by fake tensors, which
know shapes and dtypes but hold no elements: no weight is copied or even read, and models on the meta device or on a
GPU are traced alike. Operators are seen below autograd, as ATen calls, so composite ones have come apart by then.
`recorder` sees them one by one, `surroundings` is what the model finds while it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_fast._arrays import memory_key
from rebasin_fast._extras import require

from . import rules as _rules  # noqa: F401 (enters the rules)
from .call import Trace
from .dims import Reason
from .recorder import Recorder
from .surroundings import module_names, numbers_that_leave, plain_operators, silent, tensors_in, untouched
from .values import Left, Value


def captured(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Capture:
    """Trace a model on tensors without data, or with its own values where the way through the code needs some.

    Operators of which nothing but a shape was used bind dimensions for nothing: then it is traced again without them.

    Raises
    ------
    ValueError
        If the model cannot be traced.
    """
    values = False
    try:
        capture = Capture(model, args, kwargs)
    except ValueError as error:
        if any(tensor.is_meta for tensor in model.state_dict().values() if hasattr(tensor, "is_meta")):
            raise
        values = True
        try:
            capture = Capture(model, args, kwargs, values=True)
        except ValueError as with_values:
            # Without values the model itself may be at fault; with them, a way that went on says what is amiss there.
            raise (with_values if depends_on_values(error.__cause__) else error) from None
    if capture.dead:
        capture = Capture(model, args, kwargs, dead=capture.dead, values=values)
    return capture


def depends_on_values(error: BaseException | None) -> bool:
    """Say whether a trace stopped as the way through the code, or a shape, depends on the values of tensors."""
    return type(error).__name__ in (
        "DataDependentOutputException",
        "DynamicOutputShapeException",
        "GuardOnDataDependentSymNode",
    )


class Capture:
    """What a traced model consists of.

    Attributes
    ----------
    trace : Trace
        Atoms and values.
    params : dict of str to Value
        For every name in the state dict its value; names of one tensor share one.
    buffers : frozenset of str
        Which of them are buffers.
    values : bool
        Whether the model ran with its values, not on tensors without any.
    dead : dict of int to str
        Operators, by number and name, whose results nothing depends on, and yet bind dimensions: the shape was all that
        was asked for. A capture that is told of them leaves them out.
    results : list of Produced
        What depends on the inputs: every tensor of floating-point numbers that an operator made, in order.
    passed : dict of (str, str) to Value
        By module and side, "input" or "output", the tensor that a module took first, or returned, when first called.
    used_at : dict of int to int
        By the id of a value, how many of `results` there were when an operator first took it.
    """

    def __init__(
        self,
        model: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        dead: Mapping[int, str] | None = None,
        values: bool = False,
    ) -> None:
        torch = require("torch", "torch")
        self.values = values
        self.trace = Trace()
        self.params: dict[str, Value] = {}
        self.buffers: frozenset[str] = frozenset()
        self._recorder = Recorder(self.trace, dead or {}, values)
        with contextlib.ExitStack() as stack:
            if values:
                stack.enter_context(numbers_that_leave(torch, self._recorder.leaves))
            else:
                fake_tensor = require("torch._subclasses.fake_tensor", "torch")
                stack.enter_context(fake_tensor.FakeTensorMode(allow_non_fake_inputs=True))
            state = self._fake_state(torch, model)
            args, kwargs = self._fake_inputs(torch, (tuple(args), dict(kwargs)))
            with untouched(model), self._names(torch, model), plain_operators(torch, model):
                outputs = self._run(torch, model, state, args, kwargs)
            for where, tensor in tensors_in(torch, outputs, "output"):
                self._recorder.is_output(tensor)
                self.trace.freeze(self._recorder.value(tensor), Reason(where))
        self.dead = self._recorder.dead_ends()
        self._freeze_the_unused()
        recorder = self._recorder
        self.results, self.passed, self.used_at = recorder.results, recorder.passed, recorder.used_at

    def _names(self, torch: Any, model: Any) -> Any:
        recorder = self._recorder

        def entered(module: str, args: Any, kwargs: Any) -> None:
            recorder.passes(torch, module, "input", args[0] if args else next(iter(kwargs.values()), None))

        def left(module: str, out: Any) -> None:
            recorder.passes(torch, module, "output", out)

        return module_names(torch, model, recorder.modules, entered, left)

    def _run(self, torch: Any, model: Any, state: Any, args: Any, kwargs: Any) -> Any:
        dispatch = require("torch.utils._python_dispatch", "torch")
        recorder = self._recorder

        class Mode(dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return recorder.record(torch, func, args, kwargs or {})

        try:
            with torch.no_grad(), silent("torch._subclasses.fake_tensor"), Mode():
                return torch.func.functional_call(model, state, args, kwargs)
        except Exception as error:
            where = f" in {recorder.modules[-1]}" if recorder.modules else ""
            text = str(error).strip().partition("\n")[0]
            if depends_on_values(error):
                text += (
                    " (which way it goes depends on the values of a tensor; a model that has values, and lies on no "
                    "meta device, is followed on the way of the example)"
                )
            raise ValueError(f"model cannot be traced: {type(error).__name__}: {text}{where}") from error

    def _fake_state(self, torch: Any, model: Any) -> dict[str, Any]:
        """Replace parameters and buffers, one fake tensor for all names of one piece of memory."""
        saved = {name for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
        buffers = dict(model.named_buffers(remove_duplicate=False))
        named = dict(model.named_parameters(remove_duplicate=False)) | buffers
        self.buffers = frozenset(name for name in buffers if name in saved)
        fakes: dict[Any, Any] = {}
        state = {}
        for name, tensor in named.items():
            key = memory_key(tensor)
            if key not in fakes:
                fakes[key] = self._fake(torch, tensor)
                if name in saved:
                    axes = [self.trace.dims.new(size) for size in tensor.shape]
                else:
                    reason = Reason(f"buffer {name}, which is not in the state dict")
                    axes = [self.trace.dims.fixed(size, reason) for size in tensor.shape]
                self._recorder.enter(fakes[key], self.trace.value(axes))
                if name not in saved:
                    self._recorder.knows(fakes[key], tensor)
            state[name] = fakes[key]
            self._recorder.own(tensor, self._recorder.value(fakes[key]))
            if name in saved:
                self.params[name] = self._recorder.value(fakes[key])
        for name in sorted(saved - named.keys()):
            tensor = model.state_dict(keep_vars=True)[name]
            reason = Reason("entry of the state dict that is neither parameter nor buffer")
            self.params[name] = self.trace.value(self.trace.dims.fixed(size, reason) for size in tensor.shape)
        for name in _overlapping({name: named[name] for name in self.params if name in named}):
            self.trace.freeze(self.params[name], Reason("memory shared in part with another parameter"))
        return state

    def _fake(self, torch: Any, tensor: Any) -> Any:
        if self.values:
            return tensor.detach() if isinstance(tensor, torch.nn.Parameter) else tensor.detach().clone()
        fake = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="cpu")
        return torch.nn.Parameter(fake, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else fake

    def _fake_inputs(self, torch: Any, inputs: Any) -> Any:
        pytree = require("torch.utils._pytree", "torch")

        def faked(tensor: Any) -> Any:
            fake = self._fake(torch, tensor)
            axes = [self.trace.dims.fixed(size, Reason("input")) for size in tensor.shape]
            value = self.trace.value(axes)
            value.from_input = True
            self._recorder.enter(fake, value)
            return fake

        return pytree.tree_map_only(torch.Tensor, faked, inputs)

    def _freeze_the_unused(self) -> None:
        """Freeze what other inputs may use in other ways: parts beyond a slice, parameters of other paths."""
        dims = self.trace.dims
        for value in self.params.values():
            if id(value) not in self._recorder.used_at:
                self.trace.freeze(value, Reason("not used in the traced forward pass"))
        parts_left = self.trace.views.parts_left
        used = {atom for part in self.trace.views.parts_used for atom in dims.leaves(part)}
        left = {atom for slice_ in parts_left for atom in dims.leaves(slice_.part) if not atom.frozen}
        # Beside the slice, the whole was used too: as channels are, of which a part is convolved. But another input may
        # cut a table of parameters elsewhere, or where the part taken goes along with positions of the input.
        elsewhere = {atom for slice_ in parts_left if self._may_move(slice_) for atom in dims.leaves(slice_.part)}
        used |= self._recorder.consumed(left - used - elsewhere)
        for slice_ in parts_left:
            for atom in dims.leaves(slice_.part):
                if atom not in used:
                    operator, module = slice_.reason.operator, slice_.reason.module
                    dims.freeze(atom, Reason(f"beyond the part used by {operator}", module))

    def _may_move(self, slice_: Left) -> bool:
        """Say whether a slice may be of another length for other inputs, as far as one input shows it."""
        return not slice_.from_input or any(atom.frozen for atom in self.trace.dims.leaves(slice_.chosen))


def _overlapping(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of tensors that share memory with others without being the same view of it."""
    spans = []
    for name, tensor in tensors.items():
        start = tensor.data_ptr() if tensor.device.type != "meta" else 0
        if start and tensor.numel():
            reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            spans.append((start, start + reach * tensor.element_size(), name, memory_key(tensor)))
    spans.sort(key=lambda span: span[:2])
    found: dict[str, None] = {}
    for i, (_, stop, name, key) in enumerate(spans):
        for start, _, other, other_key in spans[i + 1 :]:
            if start >= stop:
                break
            if key != other_key:
                found |= {name: None, other: None}
    return list(found)
