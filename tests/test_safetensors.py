"""Mapped safetensors files: what is read, what is written, what is refused; and how much of them stays in memory."""

import json
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from rebasin_fast import _residency, apply_permutation, mlp, random_permutation
from rebasin_fast._residency import resident_within
from rebasin_fast._safetensors import MappedFile, form_of, in_file_order, write_tensors
from rebasin_fast._torch_file import TorchFile

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def tensors_of_every_dtype():
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (0,), (1,), (3, 5), (2, 0, 4), (7,)]
    drawn = {}
    for dtype in DTYPES:
        for shape in shapes:
            drawn[f"{dtype}{shape}"] = (10 * torch.rand(shape, generator=generator)).to(dtype)
    return drawn


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in b)


def test_every_dtype_and_shape_is_read_as_the_library_reads_it(tmp_path):
    expected = tensors_of_every_dtype()
    save_file(expected, tmp_path / "x.safetensors", metadata={"format": "pt", "a": "b"})
    mapped = MappedFile(tmp_path / "x.safetensors")
    assert same(mapped, expected)
    assert mapped.metadata == {"format": "pt", "a": "b"}
    assert mapped.nbytes == sum(tensor.nbytes for tensor in expected.values())
    assert all(mapped.form(name) == form_of(tensor) for name, tensor in expected.items())
    mapped.release()
    assert same(mapped, expected)


def test_what_is_written_the_library_reads(tmp_path):
    expected = tensors_of_every_dtype() | {"strided": torch.arange(12.0).reshape(3, 4).T}
    forms = in_file_order({name: form_of(tensor) for name, tensor in expected.items()})
    write_tensors(tmp_path / "x.safetensors", forms, expected, {"made": "here"})
    assert same(load_file(tmp_path / "x.safetensors"), expected)
    assert same(MappedFile(tmp_path / "x.safetensors"), expected)
    assert MappedFile(tmp_path / "x.safetensors").metadata == {"made": "here"}


def test_tensors_out_of_line_are_read(tmp_path):
    """The format recommends that numbers are aligned, and does not demand it."""
    header = json.dumps(
        {
            "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "number": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        }
    ).encode()
    content = struct.pack("<Q", len(header)) + header + b"\x07" + struct.pack("<2f", 1.5, -2.0)
    (tmp_path / "x.safetensors").write_bytes(content)
    assert MappedFile(tmp_path / "x.safetensors")["number"].tolist() == [1.5, -2.0]


def test_a_tensor_other_than_announced_is_refused(tmp_path):
    with pytest.raises(ValueError, match="as announced"):
        write_tensors(tmp_path / "x.safetensors", {"a": ("F32", (2,))}, {"a": torch.zeros(3)}, {})


GOOD = save({"a": torch.arange(4.0), "b": torch.arange(3)})


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_files_are_told_and_nothing_else(tmp_path_factory, data):
    """Whatever byte is changed or cut off, the file is read or refused; never a crash, never another error."""
    content = bytearray(GOOD)
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    path = tmp_path_factory.mktemp("broken") / "x.safetensors"
    path.write_bytes(content)
    refusal = ""
    try:
        tensors = dict(MappedFile(path))
    except ValueError as error:
        refusal = str(error)
    assert str(path) in refusal if refusal else len(tensors) == 2


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "no JSON object"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "lies at bytes 0 to 4"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, "lies at bytes"),
        ({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, "F31"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "F32"),
        ({"a": {"shape": [1], "data_offsets": [0, 4]}}, "broken"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "truncated"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}, "expected 0"),
        ({"__metadata__": {"a": 1}}, "no strings"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, message):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    with pytest.raises(ValueError, match=message):
        MappedFile(tmp_path / "x.safetensors")


PEAK = """
import pathlib, re, sys
from rebasin_fast.cli import main
try:
    main(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


def merge_peak(folder, width, layers):
    """Return the bytes of a model in shards, and the peak memory of a process that merges two."""
    spec = mlp((width,) * (layers + 1), bias=False)
    generator = torch.Generator().manual_seed(0)
    a = {name: torch.randn(width, width, generator=generator) for name in spec.params}
    for name, params in (("a", a), ("b", apply_permutation(spec, random_permutation(spec, 1), a))):
        (folder / name).mkdir(parents=True)
        where = {param: f"{number}.safetensors" for number, param in enumerate(params)}
        for param, shard in where.items():
            save_file({param: params[param]}, folder / name / shard)
        (folder / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    spec.save(folder / "spec.json")
    command = ["merge", folder / "a", folder / "b", "--spec", folder / "spec.json", "-o", folder / "merged"]
    program = [sys.executable, "-c", PEAK, *map(str, command), "--quiet", "--max-memory", "16M"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    merged = {name: load_file(folder / "merged" / f"{number}.safetensors")[name] for number, name in enumerate(a)}
    assert same(merged, a)
    return sum(tensor.nbytes for tensor in a.values()), 1024 * int(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_merge_takes_less_memory_than_one_of_its_models(tmp_path):
    """Whole models would be three of them: A, B and the merged one."""
    _, base = merge_peak(tmp_path / "tiny", 4, 2)
    size, peak = merge_peak(tmp_path / "large", 512, 128)
    assert size == 128 << 20
    assert peak - base < size


def test_files_within_the_budget_are_left_alone(tmp_path):
    save_file({"a": torch.arange(4.0)}, tmp_path / "x.safetensors")
    mapped = MappedFile(tmp_path / "x.safetensors")
    with resident_within(1 << 20, [mapped]):
        assert mapped["a"].sum() == 6
    with resident_within(1, [mapped]):
        assert mapped["a"].sum() == 6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_what_is_read_stays_within_the_budget_though_the_watcher_sleeps(tmp_path, monkeypatch, suffix):
    """As on a busy machine, where it waits for a processor while others read."""
    monkeypatch.setattr(_residency, "_PERIOD", 1000.0)
    path, count, size = tmp_path / f"x.{suffix}", 64, 1 << 20
    tensors = {str(k): torch.full((size,), k, dtype=torch.uint8) for k in range(count)}
    (save_file if suffix == "safetensors" else torch.save)(tensors, path)
    file = MappedFile(path) if suffix == "safetensors" else TorchFile(path)
    file["0"].max()  # what code there is for that is read now
    held = []
    with resident_within(4 * size, [file]) as look:
        before = _residency._file_bytes()
        for k in range(count):
            assert file[str(k)].max() == k
            assert _residency._file_bytes() - before < 6 * size
        if suffix == "safetensors":  # what torch mapped stays as long as somebody holds a tensor of it
            held = [file[str(k)] for k in range(count)]
        for k, tensor in enumerate(held):
            assert tensor.max() == k
            look()
            assert _residency._file_bytes() - before < 6 * size
    assert file.before_read is None


def test_a_watcher_ends_with_its_block_whatever_happens(tmp_path):
    import threading

    save_file({"a": torch.arange(4.0)}, tmp_path / "x.safetensors")
    with pytest.raises(RuntimeError, match="now"), resident_within(1, [MappedFile(tmp_path / "x.safetensors")]):
        raise RuntimeError("now")
    assert not [thread for thread in threading.enumerate() if thread.name == "resident_within"]
