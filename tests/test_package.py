"""The package as installed: what importing it costs, what it contains, and that its examples are true."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rebasin_fast
from rebasin_fast import cuda

MODULES = sorted(module.name for module in pkgutil.iter_modules(rebasin_fast.__path__) if module.name != "_cuda")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_loads_numpy_alone():
    heavy = ["torch", "scipy", "typer", "rich", "matplotlib", "sklearn", "safetensors", "cupy", "pandas"]
    done = run_python(f"import sys, rebasin_fast; print([m for m in {heavy} if m in sys.modules])")
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in rebasin_fast.__all__:
        value = getattr(rebasin_fast, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, name


def test_version_is_one():
    assert rebasin_fast.__version__ == importlib.metadata.version("rebasin-fast")


def test_typed_and_complete():
    folder = Path(rebasin_fast.__file__).parent
    assert (folder / "py.typed").exists()
    assert (folder / "_core.pyi").exists()
    assert list(folder.glob("_core.*.so")) + list(folder.glob("_core.*.pyd"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"rebasin_fast.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_instruction_set_can_be_forced_and_a_wrong_name_is_told():
    code = "import rebasin_fast; print(rebasin_fast.build_info()['isa'])"
    for isa in rebasin_fast.build_info()["available_isas"]:
        done = subprocess.run(
            [sys.executable, "-c", code], env={"REBASIN_FAST_ISA": isa}, capture_output=True, text=True, check=True
        )
        assert (done.stdout.strip(), done.stderr) == (isa, "")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"REBASIN_FAST_ISA": "mmx"}, capture_output=True, text=True, check=True
    )
    assert "REBASIN_FAST_ISA is 'mmx'; this machine has scalar" in done.stderr


def test_cuda_answers_without_raising():
    assert cuda.is_available() == bool(cuda.devices())
    assert (cuda.why_unavailable() is None) == cuda.is_available()
    if not cuda.is_built():
        assert not cuda.is_available()


def test_cuda_not_built_is_an_answer(monkeypatch):
    monkeypatch.setattr(cuda, "is_built", lambda: False)
    assert cuda.devices() == []
    assert "no nvcc was found" in cuda.why_unavailable()


@pytest.mark.gpu
@pytest.mark.skipif(not cuda.is_available(), reason="no CUDA device")
def test_cuda_device_query():
    for device in cuda.devices():
        assert device["name"]
        assert device["compute_capability"] >= (5, 0)
        assert device["memory_bytes"] > 2**28
