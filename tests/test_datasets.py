import gzip

import numpy as np
import pytest
import torch

from idx_data import idx_bytes
from rebasin_fast.datasets import load_dataset, load_digits, load_idx_dataset, read_idx, split_batches


def example_arrays():
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (6, 3, 2), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.array([0, 1, 9, 3, 4, 5], dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (2, 3, 2), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.array([7, 8], dtype=np.uint8),
    }


def write_example(folder, suffix="", **replaced):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (example_arrays() | {key.replace("_", "-"): value for key, value in replaced.items()}).items():
        content = idx_bytes(array)
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix == ".gz" else content)


def test_digits_are_split_repeatably_without_overlap():
    one, same, other = load_digits(1), load_digits(1), load_digits(2)
    assert one.train_x.shape == (1438, 64)
    assert one.test_x.shape == (359, 64)
    assert one.train_x.dtype == torch.float32
    assert one.train_y.dtype == torch.int64
    assert (one.train_x.min(), one.train_x.max()) == (0.0, 1.0)
    assert torch.equal(one.test_x, same.test_x)
    assert torch.equal(one.test_y, same.test_y)
    assert not torch.equal(one.test_x, other.test_x)
    rows = {row.numpy().tobytes() for row in torch.cat([one.train_x, one.test_x])}
    assert len(rows) == 1797
    assert set(one.test_y.tolist()) == set(range(10))
    assert (one.name, one.num_classes) == ("digits", 10)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan"), float("inf")])
def test_digits_need_both_parts(fraction):
    with pytest.raises(ValueError, match=r"test_fraction is .*; expected a number between 0 and 1"):
        load_digits(test_fraction=fraction)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_idx_sets_are_found_and_read(tmp_path, place, suffix):
    write_example(tmp_path / place, suffix)
    got = load_dataset("mnist", tmp_path)
    arrays = example_arrays()
    np.testing.assert_allclose(got.train_x * 255, arrays["train-images-idx3-ubyte"].reshape(6, 6), rtol=1e-6)
    np.testing.assert_allclose(got.test_x * 255, arrays["t10k-images-idx3-ubyte"].reshape(2, 6), rtol=1e-6)
    assert got.train_y.tolist() == [0, 1, 9, 3, 4, 5]
    assert got.test_y.tolist() == [7, 8]
    assert got.train_x.dtype == torch.float32
    assert got.name == "mnist"


def test_the_named_folder_comes_first(tmp_path):
    write_example(tmp_path)
    write_example(tmp_path / "fashion_mnist", train_labels_idx1_ubyte=np.full(6, 2, np.uint8))
    assert load_idx_dataset(tmp_path, "fashion_mnist").train_y.tolist() == [2] * 6
    assert load_idx_dataset(tmp_path, "mnist").train_y.tolist() == [0, 1, 9, 3, 4, 5]


def test_missing_files_say_what_was_looked_for(tmp_path):
    write_example(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte .*looked in .*mnist"):
        load_dataset("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_dataset("mnist", tmp_path / "nowhere")


def test_names_and_data_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="dataset is 'cifar'; expected one of digits, mnist, fashion_mnist"):
        load_dataset("cifar")
    with pytest.raises(ValueError, match="expected data to be the folder"):
        load_dataset("mnist")
    with pytest.raises(ValueError, match="digits are bundled"):
        load_dataset("digits", tmp_path)
    with pytest.raises(ValueError, match="name is 'digits'; expected one of mnist, fashion_mnist"):
        load_idx_dataset(tmp_path, "digits")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_labels_idx1_ubyte": np.zeros(5, np.uint8)}, "train-labels-idx1-ubyte has 5 labels; expected 6"),
        ({"t10k_labels_idx1_ubyte": np.array([1, 10], np.uint8)}, "t10k-labels-idx1-ubyte has a label 10"),
        ({"t10k_images_idx3_ubyte": np.zeros((2, 2, 2), np.uint8)}, r"t10k-images.*\(2, 2\); expected \(3, 2\)"),
        (
            {"train_images_idx3_ubyte": np.zeros((6, 6), np.uint8)},
            "train-images.* in 2 dimensions; expected uint8 in 3",
        ),
        ({"train_images_idx3_ubyte": np.zeros((0, 3, 2), np.uint8)}, "train-images.*expected at least one element"),
    ],
)
def test_files_that_do_not_fit(tmp_path, replaced, message):
    write_example(tmp_path, **replaced)
    with pytest.raises(ValueError, match=message):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(("code", "dtype"), [(0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")])
def test_every_element_type_comes_in_native_order(tmp_path, code, dtype):
    array = np.arange(-3, 3).reshape(2, 3).astype(dtype)
    path = tmp_path / "numbers"
    path.write_bytes(idx_bytes(array, code))
    got = read_idx(path)
    np.testing.assert_array_equal(got, array)
    assert got.dtype.isnative
    assert got.flags.writeable


GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"\x89PNG....", "no IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x07\x01\0\0\0\0", "no IDX file"),
        (b"\0\0\x08\0", "no IDX file"),
        (GOOD[:7], "ends within its header of 12 bytes"),
        (GOOD[:-1], r"holds 17 bytes; expected 18 for uint8 of shape \(2, 3\)"),
        (GOOD + b"\0", "holds 19 bytes; expected 18"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "holds 16 bytes; expected"),
        (gzip.compress(GOOD)[:-9], "truncated or corrupt"),
        (gzip.compress(GOOD)[:12] + b"\xff\xff\xff" + gzip.compress(GOOD)[15:], "truncated or corrupt"),
        (gzip.compress(GOOD)[:-8] + bytes(8), "truncated or corrupt"),
        (b"\x1f\x8b", "truncated or corrupt"),
        (gzip.compress(GOOD[:-2]), "holds 16 bytes; expected 18"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken-file.*{message}"):
        read_idx(path)


def test_batches_keep_every_example_in_order():
    x, y = torch.arange(14).reshape(7, 2), torch.arange(7)
    batches = split_batches(x, y, 3)
    assert [len(part) for _, part in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([part for part, _ in batches]), x)
    with pytest.raises(ValueError, match="batch_size is 0"):
        split_batches(x, y, 0)
    with pytest.raises(ValueError, match="x has 7 examples and y has 6"):
        split_batches(x, y[:6])
