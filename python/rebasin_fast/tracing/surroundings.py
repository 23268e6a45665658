"""What a model finds around it while it is traced or proved, and what is put back afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rebasin_fast._extras import require


def refuse_others(torch: Any, model: Any) -> None:
    """Raise unless a model is a torch module that runs as Python: parameters of others cannot be exchanged.

    Raises
    ------
    TypeError
        If it is no torch module.
    ValueError
        If it is, or holds, one of TorchScript.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is of type {type(model).__name__}; expected a torch.nn.Module")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"holds {name!r}, which is" if name else "is"
            raise ValueError(f"model {where} compiled by torch.jit; expected the module that it was made from")


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


@contextlib.contextmanager
def silent(logger: str) -> Iterator[None]:
    """Keep torch from printing a stack before it raises: the error says it all."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def numbers_that_leave(torch: Any, leaves: Callable[[Any, str], None]) -> Iterator[None]:
    """Freeze what is read out as numbers past the dispatcher, and leave the random generator as it was."""
    before = {name: getattr(torch.Tensor, name) for name in ("tolist", "numpy", "__array__")}

    def noting(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            leaves(self, f"numbers read by {name}")
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
