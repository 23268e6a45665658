"""Sees the operators of a traced model one by one: keeps the value of every tensor, and applies rules."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rebasin_fast._extras import require

from .call import INDEX_RULES, RULES, WRITES_ASIDE, Call, Result, Trace
from .dims import Atom, Reason
from .execution import called, is_mask, layout_of, owner_keys, repeated_axes, run, tensors_of
from .rules.elementwise import pointwise
from .values import Value


@dataclass(frozen=True, eq=False)
class Produced:
    """A tensor that an operator made: which of its results, of the how manieth call of that operator in its module."""

    module: str
    operator: str
    number: int
    position: int
    value: Value


_KNOWN = 1 << 18
"""Of tensors with so many elements or fewer these are kept, if they are constants of the model."""

_LOOKS = frozenset(
    f"aten::{name}"
    for name in ("select", "slice", "narrow", "split", "split_with_sizes", "unbind", "view", "_unsafe_view", "detach",
                 "alias", "t", "transpose", "permute", "squeeze", "unsqueeze", "expand")
)  # fmt: skip
"""Operators that compute nothing: where nothing comes of their results, it was for their shape."""


_SHAPE_ONLY = frozenset(
    f"aten::{name}"
    for name in ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros",
                 "new_ones", "new_full", "new_empty", "new_empty_strided")
)  # fmt: skip
"""Operators that take nothing of a tensor but its shape: what was looked at for them alone, was so for its shape."""


_IN_ANY_ORDER = frozenset(f"aten::{name}" for name in ("_local_scalar_dense", "_linalg_check_errors", "_assert_async"))
"""Operators without results that do the same in whatever order the elements come: one of them, or an error for any."""


@dataclass(frozen=True, eq=False)
class _Ran:
    """An operator with the tensors it took and made; `always` if it does more than to return them."""

    operator: str
    used: list[Any]
    results: list[Any]
    always: bool


class Recorder:
    """Keeps the value of every tensor, and applies rules."""

    def __init__(self, trace: Trace, dead: Mapping[int, str], values: bool) -> None:
        self._trace = trace
        self._dead = dead
        self._has_values = values
        self._ran: list[_Ran] = []
        self._rules_applied: list[tuple[list[Value], list[Value]]] = []
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
        """Note what is known of a tensor."""
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
        for key in owner_keys(tensor):
            self._owners.setdefault(key, []).append(value)

    def _freeze_owners(self, tensor: Any) -> None:
        """Freeze a parameter that is reached on another way than as an attribute of its module, as in a plain list."""
        for key in owner_keys(tensor):
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
            if is_mask(torch, index):  # it gives way to indices, whose order is that of its axes
                self._trace.freeze(self.value(index), self._reason(schema.name))
        ordinal = len(self._ran)
        known = self._known_result(torch, func, bound)
        strided = schema.name in ("aten::as_strided", "aten::as_strided_")
        layout = layout_of(bound["self"]) if strided else None
        repeated = repeated_axes(bound["mask"]) if schema.name.startswith("aten::masked_scatter") else ()
        if known is not None and not isinstance(known, torch.Tensor | tuple | list):
            return known  # a number for Python, the same whatever the parameters and inputs are
        out = called(func, bound) if self._has_values else run(torch, func, bound)
        results = tensors_of(torch, out)
        used = [tensor for argument in bound.values() for tensor in tensors_of(torch, argument)]
        needed = [] if schema.name in _SHAPE_ONLY else used
        self._ran.append(_Ran(schema.name, needed, results, schema.is_mutable or not results))
        self._settle_known(torch, known, results, used if schema.is_mutable else [])
        seen = {"layouts": (layout, layout_of(results[0]))} if strided else {"repeated": repeated}
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
        tensors = [tensor for argument in bound.values() for tensor in tensors_of(torch, argument)]
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
                return called(func, replaced)
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
        reals = tensors_of(torch, known) if known is not None else []
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

    def consumed(self, candidates: set[Atom]) -> set[Atom]:
        """Return those of some atoms that an operator ran along, so that its results do not have them any more."""
        found: set[Atom] = set()
        for taken, made in self._rules_applied if candidates else ():
            found |= (self._atoms(taken) & candidates) - self._atoms(made)
        return found

    def _atoms(self, values: list[Value]) -> set[Atom]:
        return {atom for value in values for dim in value.dims() for atom in self._trace.dims.leaves(dim)}

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
        cuts = len(self._trace.views.parts_left)
        result = self._by_rule(torch, func, call)
        values: list[Value | None] = [result] if isinstance(result, Value) else list(result or ())
        fitting = [value for value, shape in zip(values, call.shapes, strict=False) if value and value.shape == shape]
        if result is not None and len(fitting) == len(call.shapes):
            # What takes a part, as by an index, does not use the rest.
            if call.name not in _LOOKS and len(self._trace.views.parts_left) == cuts:
                self._rules_applied.append((call.tensors(), fitting))
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
