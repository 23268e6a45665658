import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rebasin_fast.cli import main

TINY = ["--width", "16", "--epochs", "1"]
FILES = ["barrier.png", "demo.json", "merged.safetensors"]
# Ctrl-C is listened for also where the parent ignores it, as a shell does for what it runs in the background.
PROGRAM = """
import signal, sys
from rebasin_fast.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main(sys.argv[1:])
"""


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_demo_shows_tables_on_stdout_and_progress_on_stderr(tmp_path, call):
    code, out, err = call("demo", "--out", tmp_path, *TINY)
    assert code == 0
    for text in ("model A", "midpoint, naive", "midpoint, matched", "Loss barrier", "reduction", "Seconds", "in all"):
        assert text in out
    assert all(name in out for name in FILES)
    assert "train A" in err
    assert "barrier, matched" in err
    assert names(tmp_path) == FILES


def test_demo_as_json_prints_what_it_writes(tmp_path, call):
    code, out, err = call("demo", "--out", tmp_path, "--json", "--quiet", "--seed", 2, *TINY)
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "demo.json").read_text())
    assert json.loads(out)["seed"] == 2
    assert json.loads(out)["settings"]["width"] == 16


def test_demo_overwrites_only_with_force(tmp_path, call):
    (tmp_path / "merged.safetensors").write_text("precious")
    code, out, err = call("demo", "--out", tmp_path, *TINY)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "merged.safetensors" in err
    assert (tmp_path / "merged.safetensors").read_text() == "precious"
    assert call("demo", "--out", tmp_path, "--force", "--quiet", *TINY)[0] == 0
    assert names(tmp_path) == FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifar"], "dataset is 'cifar'; expected one of digits, mnist, fashion_mnist"),
        (["--dataset", "mnist"], "expected data to be the folder"),
        (["--dataset", "mnist", "--data", "nowhere"], "looked in nowhere"),
        (["--data", "nowhere"], "digits are bundled"),
    ],
)
def test_expected_errors_are_one_line(tmp_path, call, arguments, message):
    code, out, err = call("demo", "--out", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("rebasin-fast: ")
    assert message in err
    assert err.count("\n") == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("arguments", [["demo", "--width", "0"], ["demo", "--nonsense"], ["nonsense"], ["demo", "x"]])
def test_wrong_usage_exits_with_2(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["info", "--nonsense", "--json"], 2, "wrong usage"),
        (["nonsense", "--json"], 2, "wrong usage"),
        (["lap", "nothing.npy", "--json"], 2, "nothing.npy"),
        (["merge", "a.pt", "b.pt", "-o", "m.pt", "--arch", "mlp", "--json"], 2, "a.pt does not exist"),
        (["demo", "--dataset", "cifar", "--json"], 2, "dataset is 'cifar'"),
    ],
)
def test_a_failure_is_json_too(call, tmp_path, monkeypatch, arguments, code, error):
    monkeypatch.chdir(tmp_path)
    ended, out, err = call(*arguments)
    told = json.loads(out)
    assert (ended, told["exit_code"]) == (code, code)
    assert error in told["error"]
    assert err
    assert call(*(argument for argument in arguments if argument != "--json"))[1] == ""


def test_what_nobody_foresaw_is_json_too(call, capsys, monkeypatch):
    def broken():
        raise RuntimeError("a defect")

    monkeypatch.setattr("rebasin_fast.cli._info._facts", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["info", "--json"])
    assert json.loads(capsys.readouterr().out) == {"error": "RuntimeError: a defect", "exit_code": 1}


def test_memory_that_torch_does_not_get_is_told_in_one_line(call, monkeypatch):
    def greedy():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("rebasin_fast.cli._info._facts", greedy)
    assert call("info") == (2, "", "rebasin-fast: out of memory\n")


def test_an_interrupted_command_is_json_too(tmp_path, call, monkeypatch):
    def interrupted(**_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("rebasin_fast.demo.run_demo", interrupted)
    _, out, _ = call("demo", "--out", tmp_path, "--quiet", "--json")
    assert json.loads(out) == {"error": "interrupted", "exit_code": 130}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_a_failure(tmp_path):
    program = [sys.executable, "-c", PROGRAM, "info", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("arguments", ["info --json", "lap cost.npy --json"])
def test_a_reader_that_goes_away_is_no_news(tmp_path, arguments):
    np.save(tmp_path / "cost.npy", np.eye(3000, dtype=np.uint8))  # more output than a pipe holds
    command = f'"$0" -c "$1" {arguments} | true'
    done = subprocess.run(["sh", "-c", command, sys.executable, PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_has_no_letters_for_are_shown_as_escapes(tmp_path, encoding):
    np.save(tmp_path / "cost.npy", np.eye(2))
    out = tmp_path / (
        b"p\xff\xc3\xa4rs.npy".decode("utf-8", "surrogateescape") if os.name == "posix" else "p\xe4rs.npy"
    )
    program = [sys.executable, "-X", "utf8=0", "-c", PROGRAM, "lap", tmp_path / "cost.npy", "--out", out]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(program, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"wrote" in done.stdout
    assert np.load(out).shape == (2, 2)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_without_standard_output_it_runs(tmp_path):
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", PROGRAM, "info"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_shows_examples_and_commands(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "Examples" in out
    assert "rebasin-fast demo" in out
    assert "info" in out


def test_info_names_versions_and_build(call):
    import numpy as np

    code, out, err = call("info")
    assert (code, err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
    assert shown["numpy"] == np.__version__
    assert shown["python"] == sys.version.split()[0]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_it_says_how_to_install(call, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    code, out, err = call("demo")
    assert (code, out) == (2, "")
    assert "pip install 'rebasin-fast[cli]'" in err
    assert err.count("\n") == 1


def test_interrupt_in_the_library_exits_with_130(tmp_path, call, monkeypatch):
    def interrupted(**_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("rebasin_fast.demo.run_demo", interrupted)
    code, out, err = call("demo", "--out", tmp_path, "--quiet")
    assert (code, out, err) == (130, "", "rebasin-fast: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    program = [sys.executable, "-c", PROGRAM, "demo", "--out", str(tmp_path / "out"), "--epochs", "100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FORCE_COLOR": "1"}
    with subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        seen = b""
        while b"/100000" not in seen:  # a bar with a count: the training has begun
            piece = process.stderr.read1()
            assert piece, seen
            seen += piece
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == b""
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert names(tmp_path) == []


def test_the_module_imports_neither_torch_nor_typer():
    program = "import sys, rebasin_fast.cli; print(sorted({'torch', 'typer', 'rich', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_modules_import_without_torch():
    modules = "interpolate, evaluate, datasets, training, demo"
    program = f"import sys; from rebasin_fast import {modules}; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
