"""The example notebook: from a folder of recordings to a sentence to hear, on the tiny model."""

import os
import re
import sys
import wave
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from higgs_audio_trainer import read
from tests.readme import ROOT

PATH = ROOT / "examples" / "voice.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run all cells in a new folder, with the commands of this environment. Return the cells and the folder."""
    folder = tmp_path_factory.mktemp("notebook")
    book = nbformat.read(PATH, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        NotebookClient(book, timeout=200, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return book.cells, folder / "voice-notebook"


def shown_by(cells, source):
    """Return the text and HTML that the cell with a line of source shows."""
    (cell,) = [cell for cell in cells if cell.cell_type == "code" and source in cell.source]
    parts = [output.get("text") or output.data.get("text/html") or output.data["text/plain"] for output in cell.outputs]
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(parts))


def test_the_notebook_teaches_the_model_its_sentences(executed):
    """The loss falls, and the model says the probes by itself."""
    cells, folder = executed
    losses = [event.loss for event in read(folder / "voice") if event.event == "train_step"]
    assert losses[-1] < losses[0] / 10
    trained = shown_by(cells, "higgs-audio-trainer train")
    assert "Sample 1 Prediction vs Label Comparison:" in trained
    spoken = [event for event in read(folder / "voice") if event.event == "generation_sample"]
    assert [event.stopped for event in spoken] == [True, True]


def test_the_notebook_shows_log_and_report(executed):
    """The summary is a table, and the report is inside the page, not beside it."""
    cells, folder = executed
    assert "completed at step 40" in shown_by(cells, "import read")
    frame = shown_by(cells, "srcdoc")
    assert unescape(frame.partition('srcdoc="')[2].partition('" style')[0]) == (folder / "report.html").read_text(
        "utf-8"
    )


def test_the_notebook_lets_hear_the_recording_and_the_voice(executed):
    """Two players: the first recording, and the same sentence said by the model, about as long."""
    cells, folder = executed
    players = [shown_by(cells, f'Audio("{name}")') for name in ("recordings/en-1.flac", "hello.wav")]
    assert all('src="data:audio/' in player for player in players)
    with wave.open(str(folder / "hello.wav")) as file:
        assert 2 < file.getnframes() / file.getframerate() < 4
    assert "stopped by itself" in shown_by(cells, "higgs-audio-trainer say")


def test_git_holds_no_outputs():
    """Outputs are made anew by each reader. A stored run would grow the repository with every execution."""
    cells = nbformat.read(PATH, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    assert [cell.id for cell in cells] == [f"cell-{number:02d}" for number in range(1, len(cells) + 1)]
    assert all(cell.metadata == {} for cell in cells)
