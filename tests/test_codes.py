"""Codes on disk."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.codes import load_codes

CODES = np.arange(24).reshape(3, 8)


def load(path: Path) -> np.ndarray:
    """Load codes for a model of 3 codebooks of 1024 codes."""
    return load_codes(path, num_codebooks=3, num_codes=1024)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, ">i4"])
def test_codes_of_any_integer_type_are_read_from_npy(tmp_path, dtype):
    """They come as int64, in memory of their own."""
    np.save(tmp_path / "c.npy", CODES.astype(dtype))
    loaded = load(tmp_path / "c.npy")
    assert loaded.dtype == np.int64
    assert type(loaded) is np.ndarray
    assert np.array_equal(loaded, CODES)


def test_codes_in_fortran_order_are_read(tmp_path):
    """How the array lies in the file makes no difference."""
    np.save(tmp_path / "c.npy", np.asfortranarray(CODES))
    assert np.array_equal(load(tmp_path / "c.npy"), CODES)


@pytest.mark.parametrize("name", ["anything", "codes"])
def test_the_one_tensor_of_a_safetensors_file_is_taken(tmp_path, name):
    """One tensor needs no particular name."""
    save_file({name: CODES.astype(np.int32)}, tmp_path / "c.safetensors")
    assert np.array_equal(load(tmp_path / "c.safetensors"), CODES)


@pytest.mark.parametrize("name", ["codes", "audio_codes"])
def test_the_tensor_that_is_named_for_it_is_taken(tmp_path, name):
    """Beside other tensors, the codes are found by their name."""
    save_file({"a": np.zeros(3), name: CODES, "z": np.zeros(3)}, tmp_path / "c.safetensors")
    assert np.array_equal(load(tmp_path / "c.safetensors"), CODES)


def npy(array: Any) -> Callable[[Path], None]:
    """Return a function that writes any array."""
    return lambda path: np.save(path, array, allow_pickle=True)


def raw(data: bytes) -> Callable[[Path], None]:
    """Write bytes."""
    return lambda path: path.write_bytes(data) and None


def half_npy(path: Path) -> None:
    """Write codes, and cut the file off."""
    np.save(path, CODES)
    path.write_bytes(path.read_bytes()[:-10])


def huge_npy(path: Path) -> None:
    """Write a header that claims more bytes than the machine's memory."""
    np.save(path, CODES)
    path.write_bytes(path.read_bytes().replace(b"(3, 8)", b"(3, 9999999999999)").replace(b" " * 13 + b"\n", b"\n"))


def zipped(path: Path) -> None:
    """Write a zip of arrays under a wrong name."""
    with path.open("wb") as file:
        np.savez(file, CODES)


BROKEN = [
    ("a.npy", npy(CODES.astype(float)), r"an array of integers, got float64 \[3, 8\]"),
    ("a.npy", npy(CODES.astype(bool)), r"an array of integers, got bool \[3, 8\]"),
    ("a.npy", npy(CODES.astype("m8[s]")), r"an array of integers, got timedelta64\[s\] \[3, 8\]"),
    ("a.npy", npy(CODES.T), r"codes of shape \[3, frames\], got shape \[8, 3\]"),
    ("a.npy", npy(CODES[None]), r"codes of shape \[3, frames\], got shape \[1, 3, 8\]"),
    ("a.npy", npy(CODES[0]), r"codes of shape \[3, frames\], got shape \[8\]"),
    ("a.npy", npy(CODES[:, :0]), r"codes of shape \[3, frames\], got shape \[3, 0\]|readable codes, got .*empty"),
    ("a.npy", npy(CODES + 1001), "codes from 0 to 1023, got 1001 to 1024"),
    ("a.npy", npy(CODES - 1), "codes from 0 to 1023, got -1 to 22"),
    ("a.npy", npy(CODES.astype(np.uint64) + np.uint64(2**63)), "codes from 0 to 1023, got 9223372036854775808 to "),
    ("a.npy", npy(CODES.astype(object)), "readable codes, got .*Python objects"),
    ("a.npy", raw(pickle.dumps(CODES)), "readable codes, got "),
    ("a.npy", zipped, "readable codes, got "),
    ("a.npy", half_npy, "readable codes, got "),
    ("a.npy", huge_npy, "readable codes, got "),
    ("a.npy", raw(b""), "readable codes, got "),
    ("a.npy", lambda path: None, "readable codes, got .*No such file"),
    ("a.safetensors", raw(b"\x08"), "readable codes, got "),
    ("a.safetensors", raw(b"\xff" * 100), "readable codes, got "),
    ("a.safetensors", lambda path: None, "readable codes, got .*[Nn]o such file"),
    ("a.safetensors", lambda path: save_file({"a": CODES, "b": CODES}, path), r"one tensor, .*got tensors named \['a"),
    ("a.safetensors", lambda path: save_file({}, path), r"one tensor, .*got tensors named \[\]"),
    (
        "a.safetensors",
        lambda path: save_torch_file({"codes": torch.ones(3, 8, dtype=torch.bfloat16)}, path),
        "readable codes, got |an array of integers, got ",
    ),
    ("a.pt", raw(b"x"), r"codes in a .npy or .safetensors file, got 'a.pt'"),
]


@pytest.mark.parametrize(("name", "write", "message"), BROKEN, ids=[f"{name}-{m[:45]}" for name, _, m in BROKEN])
def test_codes_that_cannot_be_used_are_refused(tmp_path, name, write, message):
    """Type, shape, range, key and format are checked; a pickle is never opened."""
    write(tmp_path / name)
    with pytest.raises(AudioError) as caught:
        load(tmp_path / name)
    assert re.match(f"expected {message}", str(caught.value)), str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_of_codes_is_refused_or_still_holds_codes(tmp_path_factory, data):
    """Any change of bytes gives an `AudioError` or codes in range."""
    path = tmp_path_factory.getbasetemp() / data.draw(st.sampled_from(["damaged.npy", "damaged.safetensors"]))
    if path.suffix == ".npy":
        np.save(path, CODES)
    else:
        save_file({"codes": CODES}, path)
    content = bytearray(path.read_bytes())
    for index, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[index] = value
    path.write_bytes(content[: data.draw(st.none() | st.integers(0, len(content)))])
    try:
        loaded = load(path)
    except AudioError:
        return
    assert loaded.shape[0] == 3
    assert 0 <= loaded.min() <= loaded.max() < 1024
