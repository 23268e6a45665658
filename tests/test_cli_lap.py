"""``rebasin-fast lap`` and ``info``."""

import json

import numpy as np
import pytest

import rebasin_fast

SMALL = np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])


def saved(path, matrix):
    if path.suffix == ".npy":
        np.save(path, matrix)
    elif path.suffix == ".npz":
        np.savez(path, matrix)
    else:
        np.savetxt(path, matrix, delimiter=",", fmt="%d" if matrix.dtype.kind == "i" else "%.17g")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_every_format_gives_the_answer_of_the_library(tmp_path, call, suffix, maximize, dtype):
    matrix = (np.random.default_rng(0).integers(-50, 50, size=(7, 9)) + np.array(0.5).astype(dtype)).astype(dtype)
    path = saved(tmp_path / f"cost{suffix}", matrix)
    code, out, err = call("lap", path, "--json", *(["--maximize"] if maximize else []))
    assert (code, err) == (0, "")
    shown = json.loads(out)
    expected = rebasin_fast.solve_assignment(matrix, maximize)
    assert shown["cost"] == expected.cost
    assert shown["dtype"] == str(np.dtype(dtype))
    assert matrix[shown["row_ind"], shown["col_ind"]].sum() == expected.cost
    assert (shown["rows"], shown["columns"], shown["maximize"]) == (7, 9, maximize)


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_out_holds_the_pairs(tmp_path, call, suffix):
    out_file = tmp_path / f"assignment{suffix}"
    code, out, _ = call("lap", saved(tmp_path / "cost.npy", SMALL), "--out", out_file)
    assert code == 0
    assert out.splitlines()[0].split() == ["cost", "5"]
    assert str(out_file) in out
    if suffix == ".npy":
        pairs = np.load(out_file)
    else:
        assert out_file.read_text().splitlines()[0] == "row,column"
        pairs = np.loadtxt(out_file, delimiter=",", skiprows=1, dtype=int)
    assert SMALL[pairs[:, 0], pairs[:, 1]].sum() == 5


def test_out_replaces_only_with_force_and_never_the_input(tmp_path, call):
    cost, out_file = saved(tmp_path / "cost.npy", SMALL), tmp_path / "a.npy"
    out_file.write_text("precious")
    code, out, err = call("lap", cost, "--out", out_file)
    assert (code, out) == (2, "")
    assert "a.npy" in err
    assert out_file.read_text() == "precious"
    assert call("lap", cost, "--out", out_file, "--force")[0] == 0
    assert np.load(out_file).shape == (3, 2)
    before = cost.read_bytes()
    code, _, err = call("lap", cost, "--out", cost, "--force")
    assert code == 2
    assert "is an input" in err
    assert cost.read_bytes() == before


def test_an_archive_of_several_needs_a_key(tmp_path, call):
    np.savez(tmp_path / "two.npz", cost=SMALL, other=-SMALL)
    code, _, err = call("lap", tmp_path / "two.npz")
    assert code == 2
    assert "cost, other" in err
    assert json.loads(call("lap", tmp_path / "two.npz", "--key", "cost", "--json")[1])["cost"] == 5


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_is_never_executed(tmp_path, call):
    np.save(tmp_path / "bomb.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    code, out, err = call("lap", tmp_path / "bomb.npy")
    assert (code, out) == (2, "")
    assert "executed" not in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npy", None, "missing.npy"),
        ("cost.txt", b"1,2", "expected .npy, .npz or .csv"),
        ("broken.npy", b"no numpy file", "neither an array nor an archive"),
        ("broken.npz", b"PK no archive", "cannot be read"),
        ("empty.csv", b"\n", "it is empty"),
        ("words.csv", b"a,b\n1,2\n", "row 1, column 1 is 'a'; expected a number"),
        ("gap.csv", b"1,2\n3,\n", "row 2, column 2 is ''"),
        ("rounded.csv", b"9007199254740993,1.5\n1,2\n", "the integer 9007199254740993, which float64 would round"),
        ("long.csv", b"1000000000000000000000000000001,1\n1,2\n", "which float64 would round"),
        ("sign.csv", b"9223372036854775809,-1\n1,2\n", "which float64 would round"),
        ("ragged.csv", b"1,2\n3\n", "cannot be read"),
        ("nan.csv", b"1,nan\n3,4\n", "invalid numeric"),
        ("infeasible.csv", b"inf,inf\n3,4\n", "infeasible"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, call, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code, out, err = call("lap", path, "--out", tmp_path / "new" / "a.npy")
    assert (code, out) == (2, "")
    assert message.lower() in err.lower()
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "cost", "dtype"),
    [
        ("\ufeff4,1\r\n2,0\r\n", 3, "int64"),  # as spreadsheets write it
        ("\n# costs\n4,1\n\n2,0  # the last\n", 3, "int64"),
        ("18446744073709551615,1\n1,2\n", 2, "uint64"),
        ("1e300,inf\n-2,9007199254740992\n", 1e300, "float64"),
    ],
)
def test_what_a_csv_file_may_look_like(tmp_path, call, text, cost, dtype):
    (tmp_path / "cost.csv").write_text(text, encoding="utf-8", newline="")
    code, out, err = call("lap", tmp_path / "cost.csv", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["cost"], found["dtype"]) == (cost, dtype)


def test_info_as_json(call):
    code, out, err = call("info", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["build"]["isa"] == rebasin_fast.build_info()["isa"]
    assert shown["numpy"] == np.__version__
    assert shown["cuda"]["available"] is rebasin_fast.cuda.is_available()
