"""JSON and YAML of others: what real files have is read, and what no real file has is refused with its bound."""

import json
import os

import pytest

from higgs_audio_trainer.bounds import MAX_JSON_BYTES, MAX_JSON_VALUES
from higgs_audio_trainer.documents import load_json, load_yaml, read_document, read_json
from higgs_audio_trainer.weight_files import read_header, shards_of

#: `model_max_length` of real checkpoints, whose tokenizers have no limit: int(1e30).
NO_LIMIT = 1000000000000000019884624838656


@pytest.mark.parametrize("value", [NO_LIMIT, -NO_LIMIT, 10**307, 1.5e300])
def test_numbers_of_real_checkpoints_are_read(value):
    """A file of a checkpoint has integers beyond 64 bits, as `total_flos` of a long training."""
    assert load_json(json.dumps({"model_max_length": value})) == {"model_max_length": value}


@pytest.mark.parametrize("text", ["9" * 309, "-" + "9" * 5_000, "[" * 101 + "]" * 101, "[" * 100_000])
def test_numbers_and_depths_of_no_checkpoint_are_refused(text):
    """No float holds the integer, and no parser of a library reads the lists."""
    with pytest.raises(ValueError, match=r"expected (integers of at most 308 digits|lists and objects nested at most)"):
        load_json(text)


def test_a_file_with_more_values_than_a_checkpoint_is_refused(tmp_path):
    """The values would take gigabytes of memory."""
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b"[]," * MAX_JSON_VALUES + b"[]]")
    with pytest.raises(ValueError, match="expected at most 8,000,000 values, got more"):
        read_json(path)


def test_a_file_larger_than_that_of_a_checkpoint_is_refused(tmp_path):
    """The file is not read to its end."""
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(ValueError, match=f"expected at most {MAX_JSON_BYTES:,} bytes, got {2**40:,}"):
        read_json(path)


def test_a_pipe_or_a_device_is_no_file_of_a_checkpoint(tmp_path):
    """A pipe without a writer would never open."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="Not a file"):
            read_json(type(tmp_path)(path))
    with pytest.raises(IsADirectoryError):
        read_json(tmp_path)


def test_a_document_may_come_from_a_pipe(tmp_path):
    """A shell gives `<(command)` as a pipe."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(b"lr: 1")
    assert read_document(type(tmp_path)(f"/dev/fd/{reader}"), 5) == b"lr: 1"
    os.close(reader)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !!bool maybe", "a value of tag:yaml.org,2002:bool, got 'maybe' in line 1, column 4"),
        ("a: !!timestamp soon", "a value of tag:yaml.org,2002:timestamp, got 'soon' in line 1, column 4"),
        ("a: !!int ''", "a value of tag:yaml.org,2002:int, got ''"),
        ("a: !!int _", "a value of tag:yaml.org,2002:int, got '_'"),
        (f"a: 1{':1' * 500}.5", "a value of tag:yaml.org,2002:float"),
        ("a: !!float x", "could not convert string to float"),
        ("a: !!binary x", "failed to decode base64 data"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: !!set [a]", "expected a mapping node"),
        ("? [a]\n: b", "found unhashable key"),
        ("a: {<<: [1]}", "expected a mapping for merging"),
        ("a: 1\nb: {c: 1, c: 2}", "each key once, got 'c' twice in line 2, column 11"),
        ("<<: &a {x: 1}\n<<: *a", "each key once, got '<<' twice"),
        ("a: \x00", "special characters are not allowed"),
        (b"a: \xff", "invalid start byte"),
    ],
)
def test_yaml_that_its_tags_do_not_fit_is_refused(text, told):
    """PyYAML raises errors of Python for some of these."""
    with pytest.raises(ValueError, match=r"expected|decode|could not|unhashable|special|invalid") as caught:
        load_yaml(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_of_merges_is_refused():
    """Merges copy the keys of other mappings, as aliases repeat values."""
    lines = ["a0: &a0 {" + ",".join(f"k{i}: 1" for i in range(9)) + "}"]
    lines += [f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    with pytest.raises(ValueError, match="at most 100,000 values, with those of aliases"):
        load_yaml("\n".join(lines))


def test_keys_of_a_merge_may_be_overridden():
    """The own keys of a mapping count, as YAML defines."""
    assert load_yaml("a: &a {lr: 1, r: 2}\nb: {<<: *a, lr: 3}\nc: {lr: 4, <<: *a}")["c"] == {"lr": 4, "r": 2}


@pytest.mark.parametrize(
    "content", ["[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{}", '{"weight_map": {"a": []}}']
)
def test_an_index_without_names_of_files_is_damaged(tmp_path, content):
    """An index maps tensors to files."""
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="expected a weight_map of names of files"):
        shards_of(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/model.safetensors", "a\0b"])
def test_an_index_names_no_files_elsewhere(tmp_path, name):
    """A checkpoint of others leads to no file outside of its folder."""
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="expected names of files beside the index"):
        shards_of(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, (2**30).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]", b"\x01" + bytes(7) + b"{"],
)
def test_a_damaged_header_of_safetensors_is_refused(tmp_path, content):
    """A header may claim any length, and takes no memory of that length."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected|Expecting|decode"):
        read_header(path)
