"""Runs a model on tensors without data, and applies the rule of every operator on the way.

The model runs once, in evaluation mode, with all its parameters, buffers and inputs replaced by fake tensors, which
know shapes and dtypes but hold no elements: no weight is copied or even read, and models on the meta device or on a
GPU are traced alike. Operators are seen below autograd, as ATen calls, so composite ones have come apart by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rebasin_fast._arrays import memory_key
from rebasin_fast._extras import require

from . import rules as _rules  # noqa: F401 (enters the rules)
from .call import INDEX_RULES, RULES, WRITES_ASIDE, Call, Result, Trace
from .dims import Reason
from .rules.elementwise import pointwise
from .strides import Layout
from .values import Value


@dataclass(frozen=True, eq=False)
class Produced:
    """A tensor that an operator made: which of its results, of the how manieth call of that operator in its module."""

    module: str
    operator: str
    number: int
    position: int
    value: Value


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
        self._recorder = _Recorder(self.trace, dead or {}, values)
        with contextlib.ExitStack() as stack:
            if values:
                stack.enter_context(_numbers_that_leave(torch, self._recorder))
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
            with torch.no_grad(), _silent("torch._subclasses.fake_tensor"), Mode():
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
        used = {atom for part in self.trace.views.parts_used for atom in dims.leaves(part)}
        for part, reason in self.trace.views.parts_left:
            for atom in dims.leaves(part):
                if atom not in used:
                    dims.freeze(atom, Reason(f"beyond the part used by {reason.operator}", reason.module))


_KNOWN = 1 << 18
"""Of tensors with so many elements or fewer these are kept, if they are constants of the model."""

_LOOKS = frozenset(
    f"aten::{name}"
    for name in ("select", "slice", "narrow", "split", "split_with_sizes", "unbind", "view", "_unsafe_view", "detach",
                 "alias", "t", "transpose", "permute", "squeeze", "unsqueeze", "expand")
)  # fmt: skip
"""Operators that compute nothing: where nothing comes of their results, it was for their shape."""


_IN_ANY_ORDER = frozenset(f"aten::{name}" for name in ("_local_scalar_dense", "_linalg_check_errors", "_assert_async"))
"""Operators without results that do the same in whatever order the elements come: one of them, or an error for any."""


@dataclass(frozen=True, eq=False)
class _Ran:
    """An operator with the tensors it took and made; `always` if it does more than to return them."""

    operator: str
    used: list[Any]
    results: list[Any]
    always: bool


class _Recorder:
    """Keeps the value of every tensor, and applies rules."""

    def __init__(self, trace: Trace, dead: Mapping[int, str], values: bool) -> None:
        self._trace = trace
        self._dead = dead
        self._has_values = values
        self._ran: list[_Ran] = []
        self._outputs: set[int] = set()
        self._known: dict[int, Any] = {}
        # With the tensors, so that they live and their ids stay theirs.
        self._values: dict[int, tuple[Any, Value]] = {}
        self._owners: dict[Any, list[Value]] = {}
        self.used_at: dict[int, int] = {}
        self.modules: list[str] = []
        self.results: list[Produced] = []
        self.passed: dict[tuple[str, str], Value] = {}
        self._calls: Counter[tuple[str, str]] = Counter()

    def enter(self, tensor: Any, value: Value) -> None:
        self._values[id(tensor)] = tensor, value

    def value(self, tensor: Any) -> Value:
        """Return what is known of a tensor; one that nobody has made is a constant."""
        if id(tensor) not in self._values:
            self._freeze_owners(tensor)
            axes = [self._trace.dims.fixed(size, self._reason("constant")) for size in tensor.shape]
            self.enter(tensor, self._trace.value(axes))
            if not self._has_values:
                self.knows(tensor, tensor)
        return self._values[id(tensor)][1]

    def own(self, tensor: Any, value: Value) -> None:
        """Remember whose memory a parameter or buffer of the model is."""
        for key in _owner_keys(tensor):
            self._owners.setdefault(key, []).append(value)

    def _freeze_owners(self, tensor: Any) -> None:
        """Freeze a parameter that is reached on another way than as an attribute of its module, as in a plain list."""
        for key in _owner_keys(tensor):
            for value in self._owners.get(key, ()):
                self._trace.freeze(value, self._reason("a reference to the parameter past its module"))

    def record(self, torch: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on fake tensors, and enter its results."""
        schema = func._schema
        module = self.modules[-1] if self.modules else ""
        number = self._calls[module, schema.name]
        self._calls[module, schema.name] += 1
        named = dict(zip((a.name for a in schema.arguments), args, strict=False)) | dict(kwargs)
        bound = {a.name: named.get(a.name, a.default_value) for a in schema.arguments}
        indices = bound.get("indices")
        for index in indices if isinstance(indices, list | tuple) else ():
            if _is_mask(torch, index):  # it gives way to indices, whose order is that of its axes
                self._trace.freeze(self.value(index), self._reason(schema.name))
        ordinal = len(self._ran)
        known = self._known_result(torch, func, bound)
        strided = schema.name in ("aten::as_strided", "aten::as_strided_")
        layout = _layout(bound["self"]) if strided else None
        repeated = _repeated(bound["mask"]) if schema.name.startswith("aten::masked_scatter") else ()
        if known is not None and not isinstance(known, torch.Tensor | tuple | list):
            return known  # a number for Python, the same whatever the parameters and inputs are
        out = _called(func, bound) if self._has_values else _run_with_data_dependent_shapes(torch, func, bound)
        results = _tensors(torch, out)
        used = [tensor for argument in bound.values() for tensor in _tensors(torch, argument)]
        self._ran.append(_Ran(schema.name, used, results, schema.is_mutable or not results))
        self._settle_known(torch, known, results, used if schema.is_mutable else [])
        seen = {"layouts": (layout, _layout(results[0]))} if strided else {"repeated": repeated}
        if not results and not schema.is_mutable:
            self._leaves(schema.name, used)
            return out
        if self._dead.get(ordinal) == schema.name:
            for tensor in results:
                axes = [self._trace.dims.fixed(size, self._reason(schema.name)) for size in tensor.shape]
                self.enter(tensor, self._trace.value(axes))
            return out
        aliasing = any(result.alias_info is not None for result in schema.returns) or not results
        aliasing = aliasing or "unsafe_" in schema.name  # views as well, in spite of their schemas
        valued = seen | {name: self._valued(torch, argument, aliasing) for name, argument in bound.items()}
        name = schema.name.removesuffix("_") if schema.is_mutable else schema.name
        call = Call(self._trace, name, valued, [tuple(r.shape) for r in results], self._reason(schema.name))
        values = self._apply(torch, func, call)
        self._keep_alike(call, values, aliasing and not schema.is_mutable)
        self._note(Produced(module, schema.name, number, 0, values[0]) if values else None, call, values, results)
        in_place = schema.is_mutable and bool(results) and results[0] is bound[schema.arguments[0].name]
        for position, (tensor, value) in enumerate(zip(results, values, strict=True)):
            same = self.value(tensor).shape == value.shape if in_place else False
            if position == 0 and same and torch.Tag.inplace_view not in func.tags:
                self._overwrite(call, self.value(tensor), value, tensor.is_floating_point())
            else:
                self.enter(tensor, value)
        return out

    # ---- numbers that are known, and numbers that become Python's ----

    def knows(self, tensor: Any, real: Any) -> None:
        """Note the elements of a tensor: they are constants of the model."""
        if not hasattr(real, "fake_mode") and real.device.type != "meta" and real.numel() <= _KNOWN:
            fake_tensor = require("torch._subclasses.fake_tensor", "torch")
            with fake_tensor.unset_fake_temporarily():
                self._known[id(tensor)] = real.detach().cpu().clone()

    def _known_result(self, torch: Any, func: Any, bound: Mapping[str, Any]) -> Any:
        """Return what an operator makes of constants, or of nothing; None where that is not known."""
        tensors = [tensor for argument in bound.values() for tensor in _tensors(torch, argument)]
        if torch.Tag.nondeterministic_seeded in func.tags or "empty" in func._schema.name:
            return None
        reals = {id(tensor): self._elements(torch, tensor) for tensor in tensors}
        sizes = [math.prod(size) for size in bound.values() if isinstance(size, list | tuple) and size
                 and all(isinstance(n, int) for n in size)]  # fmt: skip
        if any(real is None for real in reals.values()) or max(sizes, default=0) > _KNOWN:
            return None
        if not tensors and func._schema.name not in ("aten::arange", "aten::zeros", "aten::ones", "aten::full",
                                                     "aten::scalar_tensor"):  # fmt: skip
            return None
        fake_tensor = require("torch._subclasses.fake_tensor", "torch")
        replaced = require("torch.utils._pytree", "torch").tree_map_only(
            torch.Tensor, lambda tensor: reals[id(tensor)], dict(bound)
        )
        if "device" in replaced:
            replaced["device"] = torch.device("cpu")
        try:
            with fake_tensor.unset_fake_temporarily():
                return _called(func, replaced)
        except Exception:  # an operator that goes another way with real numbers: then they are not known
            return None

    def _elements(self, torch: Any, tensor: Any) -> Any:
        if id(tensor) in self._known:
            return self._known[id(tensor)]
        plain = not hasattr(tensor, "fake_mode") and id(tensor) not in self._values and not self._has_values
        if plain and tensor.numel() <= _KNOWN:
            return tensor if tensor.device.type == "cpu" else None
        return None

    def _numbers(self, torch: Any, tensor: Any) -> Any:
        """Return the elements of a tensor of known integers as a NumPy array."""
        real = self._elements(torch, tensor)
        if real is None or real.dtype not in (torch.int64, torch.int32):  # masks are no indices
            return None
        with require("torch._subclasses.fake_tensor", "torch").unset_fake_temporarily():
            return real.numpy().astype("int64")

    def _settle_known(self, torch: Any, known: Any, results: list[Any], written: list[Any]) -> None:
        reals = _tensors(torch, known) if known is not None else []
        if len(reals) != len(results):
            for tensor in written:  # other numbers than those known may lie there now, and in views of it
                if (real := self._known.get(id(tensor))) is not None:
                    place = real.untyped_storage().data_ptr()
                    self._known = {
                        key: one for key, one in self._known.items() if one.untyped_storage().data_ptr() != place
                    }
            return
        for tensor, real in zip(results, reals, strict=True):
            if real.shape == tensor.shape:
                self._known[id(tensor)] = real

    def _leaves(self, operator: str, tensors: list[Any]) -> None:
        """Freeze what a number for Python depends on: one position's value is the same in any order, counts are not."""
        for value in map(self.value, tensors if operator.startswith("aten::") else ()):
            if value.index_of is not None:
                self._trace.dims.freeze(value.index_of, self._reason(operator))
            if operator not in _IN_ANY_ORDER:
                self._trace.freeze(value, self._reason(operator))

    def leaves(self, tensor: Any, how: str) -> None:
        """Freeze a tensor whose elements become numbers of Python's on another way than as an operator."""
        if id(tensor) in self._values:
            self._trace.freeze(self.value(tensor), self._reason(how))

    # ---- what nothing depends on ----

    def is_output(self, tensor: Any) -> None:
        """Note that a tensor is one of the model's outputs."""
        self._outputs.add(id(tensor))

    def dead_ends(self) -> dict[int, str]:
        """Return operators that bind dimensions, and whose results nothing depends on."""
        alive = set(self._outputs)
        dead: dict[int, str] = {}
        for number in range(len(self._ran) - 1, -1, -1):
            ran = self._ran[number]
            if ran.always or ran.operator not in _LOOKS or any(id(tensor) in alive for tensor in ran.results):
                alive.update(map(id, ran.used))
            elif any(
                not atom.frozen
                for tensor in ran.used
                for dim in self.value(tensor).dims()
                for atom in self._trace.dims.leaves(dim)
            ):
                dead[number] = ran.operator
        return dead

    def _note(self, first: Produced | None, call: Call, values: list[Value], results: list[Any]) -> None:
        """Keep in the books which tensors depend on the inputs, and those of floating-point numbers among them."""
        if first is None or not any(value.from_input for value in call.tensors()):
            return
        for position, (value, tensor) in enumerate(zip(values, results, strict=True)):
            value.from_input = True
            if tensor.is_floating_point():
                self.results.append(dataclasses.replace(first, position=position, value=value))

    def passes(self, torch: Any, module: str, side: str, tensor: Any) -> None:
        """Note what a module takes or returns."""
        if isinstance(tensor, torch.Tensor) and id(tensor) in self._values:
            self.passed.setdefault((module, side), self.value(tensor))

    def _keep_alike(self, call: Call, values: list[Value], view: bool) -> None:
        """Note that a view of equal elements holds equal elements, for as long as nobody writes there."""
        source = call.tensors()[:1]
        if view and source and source[0].alike is not None:
            for value in values:
                value.alike = source[0].alike

    def _apply(self, torch: Any, func: Any, call: Call) -> list[Value]:
        for value in call.tensors():
            self.used_at.setdefault(id(value), len(self.results))
            if value.index_of is not None and call.name not in INDEX_RULES:
                call.freeze(value.index_of)
        result = self._by_rule(torch, func, call)
        values: list[Value | None] = [result] if isinstance(result, Value) else list(result or ())
        fitting = [value for value, shape in zip(values, call.shapes, strict=False) if value and value.shape == shape]
        if result is not None and len(fitting) == len(call.shapes):
            if call.frozen:
                touched = [dim for value in (*call.tensors(), *fitting) for dim in value.dims()]
                call.mix(touched, call.frozen)
            return fitting
        self._trace.unknown.append(call.reason)
        for value in call.tensors():
            self._trace.freeze(value, call.reason)
        return [call.value(map(call.fixed, shape)) for shape in call.shapes]

    def _by_rule(self, torch: Any, func: Any, call: Call) -> Result:
        tags = func.tags
        writes = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if writes and writes != [func._schema.arguments[0].name] and call.name not in WRITES_ASIDE:
            return None
        if writes and not call.shapes:
            return None
        rule = RULES.get(call.name)
        if rule is None and torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags:
            rule = pointwise
        if rule is None:
            return None
        try:
            return rule(call)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError):
            # An overload or arguments the rule was not written for: it cannot tell. What it has tied already stays
            # tied, which only takes symmetries away.
            return None

    def _overwrite(self, call: Call, target: Value, value: Value, floating: bool) -> None:
        """Write into memory that other tensors may be views of: what is written is laid out as what was there."""
        target.from_input |= value.from_input
        if target.alike is not None:
            target.alike.still = False
        if not floating:
            self._trace.indices_overwritten = True
        if any(old is not new for old, new in zip(target.axes, value.axes, strict=True)):
            for old_dim, new_dim in zip(call.settled(target), call.settled(value), strict=True):
                call.unify(old_dim, new_dim)
        for one, other in ((target, value), (value, target)):
            if one.index_of is not None and other.index_of is None:
                call.freeze(one.index_of)
        if target.index_of is not None and value.index_of is not None:
            call.unify(target.index_of, value.index_of)

    def _valued(self, torch: Any, argument: Any, aliasing: bool) -> Any:
        if isinstance(argument, torch.Tensor):
            value = self.value(argument)
            value.known = self._numbers(torch, argument)
            if value.alike is None or not value.alike.still or aliasing:
                return value
            # Equal elements can be permuted in one way here and in another there.
            return self._trace.value(map(self._trace.dims.new, value.shape), value.index_of)
        if isinstance(argument, list | tuple):
            return [self._valued(torch, item, aliasing) for item in argument]
        return argument

    def _reason(self, operator: str) -> Reason:
        return Reason(operator.replace("::", "."), self.modules[-1] if self.modules else "")


def _owner_keys(tensor: Any) -> list[Any]:
    """Return what a tensor has in common with the views of its memory."""
    base = tensor._base if tensor._base is not None else tensor
    keys: list[Any] = [id(base)]
    if tensor.device.type != "meta" and not hasattr(tensor, "fake_mode") and tensor.untyped_storage().data_ptr():
        keys.append(("storage", tensor.untyped_storage().data_ptr()))
    return keys


def _run_with_data_dependent_shapes(torch: Any, func: Any, bound: dict[str, Any]) -> Any:
    """Run an operator; where a mask chooses positions, as if it chose all of them.

    What is chosen by a mask has as many positions as there are hits. A forward pass without values goes on with one
    number that may happen; the axis is frozen whatever its length. `bound` is changed to what was run.
    """
    aten = torch.ops.aten
    packet = func._schema.name
    if packet == "aten::nonzero":
        mask = bound["self"]
        return torch.empty((mask.numel(), mask.dim()), dtype=torch.int64)
    if packet in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        bound["indices"] = [part for one in bound["indices"] for part in _as_indices(torch, one)]
    if func is aten.masked_select.default:
        return torch.empty((bound["self"].numel(),), dtype=bound["self"].dtype)
    if packet == "aten::_grouped_mm" and bound["self"].dtype != torch.bfloat16:
        # Its shape function knows bfloat16 only.
        cast = bound | {"self": bound["self"].bfloat16(), "mat2": bound["mat2"].bfloat16()}
        return func(**cast).to(bound["self"].dtype)
    return _called(func, bound)


def _layout(tensor: Any) -> Layout:
    return Layout(tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset())


def _repeated(tensor: Any) -> tuple[int, ...]:
    """Return the axes along which all elements are the same one in memory, as `expand` leaves them."""
    return tuple(i for i, step in enumerate(tensor.stride()) if step == 0)


def _is_mask(torch: Any, index: Any) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _as_indices(torch: Any, index: Any) -> list[Any]:
    if not _is_mask(torch, index):
        return [index]
    return [torch.empty((index.numel(),), dtype=torch.int64) for _ in range(index.dim())]


def _called(func: Any, bound: dict[str, Any]) -> Any:
    arguments = func._schema.arguments
    args = [bound[a.name] for a in arguments if not a.kwarg_only]
    return func(*args, **{a.name: bound[a.name] for a in arguments if a.kwarg_only})


def tensors_in(torch: Any, item: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a model's outputs with the places they lie at, through containers and objects.

    Key/value caches of transformers are left out: they are the model's own state, for nobody but the model itself.
    """
    if isinstance(item, torch.Tensor):
        yield where, item
    elif isinstance(item, Mapping):
        for key, value in item.items():
            yield from tensors_in(torch, value, f"{where}[{key!r}]")
    elif isinstance(item, list | tuple | set | frozenset):
        for i, value in enumerate(item):
            yield from tensors_in(torch, value, f"{where}[{i}]")
    elif any(cls.__module__ == "transformers.cache_utils" for cls in type(item).__mro__):
        return
    elif dataclasses.is_dataclass(item) or hasattr(item, "__dict__"):
        for key, value in vars(item).items():
            yield from tensors_in(torch, value, f"{where}.{key}")


def _tensors(torch: Any, out: Any) -> list[Any]:
    if isinstance(out, torch.Tensor):
        return [out]
    if isinstance(out, list | tuple):
        return [tensor for item in out for tensor in _tensors(torch, item)]
    return []


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Keep torch from printing a stack before it raises: the error says it all."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def _numbers_that_leave(torch: Any, recorder: _Recorder) -> Iterator[None]:
    """Freeze what is read out as numbers past the dispatcher, and leave the random generator as it was."""
    before = {name: getattr(torch.Tensor, name) for name in ("tolist", "numpy", "__array__")}

    def noting(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            recorder.leaves(self, f"numbers read by {name}")
            return before[name](self, *args, **kwargs)

        return method

    try:
        for name in before:
            setattr(torch.Tensor, name, noting(name))
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for name, method in before.items():
            setattr(torch.Tensor, name, method)


@contextlib.contextmanager
def module_names(
    torch: Any,
    model: Any,
    modules: list[str],
    entered: Callable[[str, Any, Any], None] = lambda *_: None,
    left: Callable[[str, Any], None] = lambda *_: None,
) -> Iterator[None]:
    """Keep the names of the modules that run in `modules`, the innermost last.

    What they take and return is told to ``entered(name, args, kwargs)`` and ``left(name, out)``.
    """
    names = {id(module): name or type(model).__name__ for name, module in model.named_modules()}

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        modules.append(names[id(module)])
        entered(modules[-1], args, kwargs)

    def leave(_module: Any, _args: Any, out: Any) -> None:
        left(modules.pop(), out)

    handles = []
    try:
        for module in {id(module): module for module in model.modules()}.values():
            handles += [
                module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True),
                module.register_forward_hook(leave),
            ]
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Run in evaluation mode, and put back what the forward pass leaves on the modules: attributes, caches in them."""
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    held = [value for _, saved in attributes for value in saved.values()]
    dicts = [(value, dict(value)) for value in held if type(value) in (dict, OrderedDict)]
    lists = [(value, list(value)) for value in held if type(value) is list]
    try:
        model.eval()
        yield
    finally:
        _forget_cached_calls(model)
        for now, saved in (*dicts, *attributes):
            now.clear()
            now.update(saved)
        for items, before in lists:
            items[:] = before


def _forget_cached_calls(model: Any) -> None:
    """Empty the caches of methods and of functions beside them (`functools.lru_cache`): they may hold this run's."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__}
    own = [cls for cls in classes if not cls.__module__.startswith("torch.")]
    beside = [sys.modules[name] for name in {cls.__module__ for cls in own} - {"builtins"} if name in sys.modules]
    for namespace in (*own, *beside):
        for attribute in (getattr(one, "__func__", one) for one in list(vars(namespace).values())):
            closure = getattr(attribute, "__closure__", None)
            cells = [cell.cell_contents for cell in closure if _is_set(cell)] if isinstance(closure, tuple) else []
            for function in (attribute, *cells):
                if isinstance(function, functools._lru_cache_wrapper):
                    function.cache_clear()


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # an empty cell
        return False


@contextlib.contextmanager
def plain_operators(torch: Any, model: Any) -> Iterator[None]:
    """Have attention, encoder layers and experts come apart into operators that have rules."""
    attention = require("torch.nn.attention", "torch")
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with attention.sdpa_kernel(attention.SDPBackend.MATH), _experts_looked_up(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _experts_looked_up(model: Any) -> Iterator[None]:
    """Have transformers look up every token's own experts, instead of sorting tokens by expert: the sum is the same."""
    found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found if hasattr(config, "_experts_implementation")}
    before = [(config, config._experts_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._experts_implementation = "batched_mm"
        yield
    finally:
        for config, implementation in before:
            config._experts_implementation = implementation


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
