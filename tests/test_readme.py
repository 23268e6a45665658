"""Every Python block of the README runs, each in a namespace of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
if not README.is_file():
    pytest.skip("the README is not beside the tests", allow_module_level=True)

BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, capsys):
    namespace: dict[str, object] = {}
    exec(compile(BLOCKS[number], f"README block {number + 1}", "exec"), namespace)
    assert "Error" not in capsys.readouterr().err
    assert namespace
