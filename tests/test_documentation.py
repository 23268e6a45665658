"""Every code block of the README and of docs/ is true: Python runs, commands run or at least are ones we know."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import models
import rebasin_fast
from rebasin_fast import mlp

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
if not PAGES[0].is_file():
    pytest.skip("README and docs are not beside the tests", allow_module_level=True)


class Block(NamedTuple):
    page: str
    number: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}-{self.number}"


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```([^\n`]*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(page.name, k + 1, language.strip(), body) for k, (language, body) in enumerate(found)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.replace("\\\n", " ").splitlines()
    if shlex.split(line, comments=True)
]
OUTPUTS = {"-o", "--out", "--save"}


def test_there_are_examples():
    assert len(PYTHON) >= 20
    assert len(COMMANDS) >= 10


def test_every_public_name_is_in_the_reference():
    path = ROOT / "docs" / "reference.py"
    loader = importlib.util.spec_from_file_location("reference_of_the_documentation", path)
    reference = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(reference)
    shown = Counter(
        re.findall(r"(?:::|:py:mod:`) ?(?:rebasin_fast\.)?(?:\w+\.)?(\w+)", "\n".join(reference.pages().values()))
    )
    assert [name for name in rebasin_fast.__all__ if shown[name] == 0] == []
    assert "Permutation" in reference.pages()["permutations.rst"]
    assert reference.page_of("weight_matching").name == "matching"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_has_a_language_that_is_checked(block):
    assert block.language in {"python", "sh", "text"} or block.language.startswith("{")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_runs(block, capsys):
    namespace: dict[str, object] = {}
    exec(compile(block.text, str(block), "exec"), namespace)
    assert "Error" not in capsys.readouterr().err
    assert namespace


@pytest.fixture
def folder(tmp_path, monkeypatch, call):
    """The current folder, with the files that documented commands read."""
    monkeypatch.chdir(tmp_path)
    spec = mlp((6, 8, 3))
    for seed, name in enumerate("ab"):
        params = models.randomise(models.MLP((6, 8, 3)), seed).state_dict()
        torch.save(params, f"{name}.pt")
        save_file(params, f"{name}.safetensors")
    torch.save(models.ResNet20(0.25).state_dict(), "model.pt")
    spec.save("spec.json")
    np.save("cost.npy", np.random.default_rng(0).random((5, 6)))
    call("match", "a.pt", "b.pt", "--arch", "mlp", "-o", "perm.safetensors", "--quiet")
    return tmp_path


def rebasin_fast_runs(arguments, call):
    """Run a command as documented if all that it reads is there; else see that it exists and has these options."""
    written = {after for option, after in itertools.pairwise(arguments) if option in OUTPUTS}
    read = [word for word in arguments[1:] if re.search(r"(\.[a-z]+|/)$", word) and word not in written]
    heavy = arguments[0] in {"demo", "bench", "reproduce", "barrier"} or "--model-class" in arguments
    if heavy or not all(Path(name).is_file() for name in read):
        code, out, _ = call(arguments[0], "--help")
        return code == 0 and all(word in out for word in arguments if word.startswith("--"))
    for name in written:
        Path(name).unlink(missing_ok=True)
    code, _, err = call(*arguments)
    assert (code, err.count("error")) == (0, 0), err
    return all(Path(name).is_file() for name in written)


def make_knows(target):
    return re.search(
        rf"^{re.escape(target)}:|\b{re.escape(target)}\b.*:", (ROOT / "Makefile").read_text(), re.MULTILINE
    )


def extras_exist(requirement):
    wanted = re.findall(r"[\w-]+", (re.findall(r"\[(.*)\]", requirement) or [""])[0])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return all(re.search(rf"^{extra} = \[", project, flags=re.MULTILINE) for extra in wanted)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_runs_or_is_known(words, folder, call):
    while "=" in words[0]:  # variables of the environment
        words = words[1:]
    if words[0] == "rebasin-fast":
        assert rebasin_fast_runs(words[1:], call)
    elif words[0] == "make":
        assert all(make_knows(target) for target in words[1:] if "=" not in target)
    else:
        assert words[:2] == ["pip", "install"], "an unknown command"
        assert all(extras_exist(word) for word in words[2:])
