"""Files on which a reader once failed, or which lie at a bound, read by the readers of the fuzzing."""

import re
import shutil
from pathlib import Path

import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.codes import load_codes
from higgs_audio_trainer.output_dir.checkpoints import damage_of
from tests.fuzz import CORPUS, fuzz, read
from tests.fuzzed_files import CONTENTS

#: Message of each file in the table of the corpus.
MESSAGES = dict(
    re.findall(
        r"^\| ([\w.-]+\.\w+) \| .* \| (.+) \|$", (CORPUS / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
)
MOST_BYTES = 20_000


def files():
    """Return the files of the corpus."""
    return sorted(path for path in CORPUS.iterdir() if path.suffix != ".md")


def said(path, capfd):
    """Return the status of the command that says most about a file, and its words."""
    kind = path.name.partition("-")[0]
    if kind == "codes":
        with pytest.raises(AudioError) as caught:
            load_codes(path, num_codebooks=3, num_codes=1024)
        return 2, str(caught.value)
    if kind == "state":
        (path.parent / "trainer_state.json").write_bytes(path.read_bytes())
        return 2, damage_of(path.parent)
    command = {
        "log": ["validate", path],
        "manifest": ["manifest", path, "-o", path.parent / "out.jsonl"],
        "config": ["train", "--train_manifest", "m.jsonl", "--output_dir", "out", "--config", path],
    }[kind]
    return main([str(word) for word in command]), "".join(capfd.readouterr())


@pytest.fixture
def copy(request, tmp_path):
    """Copy a file of the corpus."""
    return Path(shutil.copyfile(request.param, tmp_path / request.param.name))


@pytest.mark.parametrize("copy", files(), ids=lambda path: path.name, indirect=True)
def test_no_file_of_the_corpus_meets_a_bug(copy):
    """Each reader ends with an exit status or an error of its own."""
    read(copy)


@pytest.mark.parametrize("copy", files(), ids=lambda path: path.name, indirect=True)
def test_a_file_of_the_corpus_is_refused_with_its_message(copy, capfd):
    """A person learns what is odd about the file, and the status is that of findings or of bad input."""
    status, words = said(copy, capfd)
    assert MESSAGES[copy.name] in words
    assert status == (1 if copy.name.startswith("log-") else 2)


def test_the_table_of_the_corpus_has_each_file():
    """A file that the fuzzing kept gets a name and a row, and is small."""
    assert sorted(MESSAGES) == [path.name for path in files()]
    assert all(path.stat().st_size <= MOST_BYTES for path in files())


@pytest.mark.parametrize("name", CONTENTS)
def test_fuzzing_reads_files(name):
    """A few examples of each kind of file are read."""
    fuzz(name, 0, examples=3)
