"""Trackers as sinks, with the real libraries, offline: what was emitted is what their own readers find."""

import re
import shutil
import subprocess
import sys
import wave
from itertools import count

import pytest

import sinks
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import SinkContext, SinkError
from sinks.trackers.rows import COLUMNS, admitted, probe, row, scalars
from sinks.trackers.tracker import TrackerSink
from tests.builders import (
    audio_sample,
    checkpoint,
    context,
    diagnosis,
    eval_result,
    fixed_clock,
    generation_sample,
    record_of,
    run_end,
    run_start,
    text_sample,
    token_counts,
    train_step,
    window,
)
from tests.tracked import NAMES, read

EVENTS = [
    run_start(),
    train_step(),
    text_sample(first=window([7, 8], label_text="صباح | خير", predicted_text="a\nb")),
    audio_sample(),
    token_counts(),
    train_step(step=40, loss=3.5),
    audio_sample(step=40),
    audio_sample(step=40, sample_index=1),
    eval_result(step=40),
    text_sample(step=40, split="eval", accuracy=None, loss=None),
    generation_sample(step=20, cer=0.25, wer=0.5),  # of an earlier step
    generation_sample(step=40, probe="../عينة 1", audio="audio/none.wav"),
    generation_sample(step=40, audio=None, frames_label=None, agreement=None),
    checkpoint(step=40),
]


def write_sound(folder):
    """Write the sound of the speech at step 20 and return its bytes."""
    path = folder / "audio" / "step-000020-probe-p-1.wav"
    path.parent.mkdir()
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 24_000, 0, "NONE", ""))
        sound.writeframes(bytes(4_800))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, trackio_store, mlflow_store):
    """Make the output directory, with MLflow's empty database."""
    shutil.copytree(mlflow_store, tmp_path / "mlflow")
    write_sound(tmp_path)
    return tmp_path


def emitted(name, folder, events, *, run_id, attempt=0):
    """Emit events to a tracker's sink as a training does, and close it; return the sink."""
    said = []
    [(_, sink)] = sinks.build(name, SinkContext(str(folder), run_id, 0, attempt, say=said.append))
    emit = Pipeline([(name, sink)], run_id=run_id, attempt=attempt, clock=fixed_clock, say=said.append)
    for event in events:
        emit(event)
    emit(diagnosis(step=40, message="No stop token."), level="warning")
    emit(run_end())
    sink.close()
    assert sink.dropped == 0
    assert all("audio/none.wav: No such file or directory. Trackers get the numbers" in text for text in said)
    return sink


@pytest.mark.parametrize("name", NAMES)
def test_everything_arrives(name, folder):
    """Scalars of each step under the same names everywhere, a row of each sample, the alert; all are kept."""
    emitted(name, folder, EVENTS, run_id=f"all-{name}")
    found = read(name, folder / name, f"all-{name}")
    records = [record_of(event) for event in EVENTS]
    expected = {}
    for record in records:
        for scalar, value in scalars(record).items():
            expected.setdefault(scalar, []).append((record["step"], pytest.approx(value, rel=1e-6)))
    assert dict(found.scalars) == expected
    assert set(expected) > {"train/loss", "train/audio_accuracy/codebook_0", "eval/audio_loss/mean"}
    assert texts(found.samples) == texts(row(record) for record in records if record["event"] == "prediction_sample")
    assert found.alerts == [("no_stop_label", "No stop token.")]
    assert {"probe/p-1/agreement/codebook_0", "probe/p-1/stopped", "probe/p-1/cer"} < set(expected)
    sound = (folder / "audio" / "step-000020-probe-p-1.wav").read_bytes()
    assert found.sounds == {("probe/p-1/audio", 20): sound}


def test_a_message_about_sounds_comes_once(tmp_path):
    """A sound that is missing or outside the run's folder costs no number, and is said once."""
    said, stored = [], []

    class Fake:
        def start(self, *_):
            pass

        def log_speech(self, _at, values, speech):
            stored.append((len(values) > 5, speech))

    sink = TrackerSink(Fake, tmp_path, said.append)
    for link in ("/etc/passwd", "audio/../x.wav", "audio/none.wav"):
        sink(record_of(generation_sample(audio=link)))
    assert stored == [(True, None)] * 3
    assert said == [
        "/etc/passwd: not a file of the run's audio folder. Trackers get the numbers of such speech without the sound"
    ]


def test_names_of_probes():
    """Any id of a probe becomes a name that every tracker takes; different ids stay different."""
    ids = ["en-1", "a/b", "a_b", "..", "", "عينة", "عينتان", "x" * 900, "\u202e\x1b[2J"]
    names = [probe({"probe": name}) for name in ids]
    assert len(set(names)) == len(ids)
    assert all(re.fullmatch(r"probe/[A-Za-z0-9_-][A-Za-z0-9_.-]*", name) and len(name) < 90 for name in names)


def texts(rows):
    """Make rows comparable where a tracker keeps texts alone, in any order."""
    cells = ((str(made[name]).replace("\n", "<br>") for name in COLUMNS) for made in rows)
    return sorted(tuple(row) for row in cells)


def test_tensorboard_forgets_the_steps_that_a_resumed_attempt_makes_again(folder, monkeypatch):
    """A step that was made twice has the value of the attempt that went on, even if both began in one moment."""
    monkeypatch.setattr("sinks.trackers.tensorboard.time.time_ns", lambda: 1_700_000_000_000_000_000)
    monkeypatch.setattr("sinks.trackers.tensorboard._numbers", count(9))  # a second digit comes with the second file
    for attempt, (start, loss) in enumerate(((None, 4.0), (20, 3.0))):
        events = [run_start(resumed_from_step=start), train_step(step=30 + attempt, loss=loss)]
        emitted("tensorboard", folder, [*events, train_step(step=40, loss=loss)], run_id="r", attempt=attempt)
    assert read("tensorboard", folder / "tensorboard", "r").scalars["train/loss"] == [(31, 3.0), (40, 3.0)]


@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_attempts_go_on_in_one_run(name, folder):
    """A run that was resumed is one run there."""
    for attempt in range(2):
        events = [run_start(), train_step(step=10 + attempt)]
        emitted(name, folder, events, run_id=f"resumed-{name}", attempt=attempt)
    found = read(name, folder / name, f"resumed-{name}")
    assert [step for step, _ in found.scalars["train/loss"]] == [10, 11]


def test_a_modality_without_targets_has_no_loss():
    """A training of text alone, as of a foreign model, draws no audio; a codebook without targets no loss of 0."""
    text = {"audio_loss": 0.0, "audio_loss_per_codebook": (), "audio_accuracy_per_codebook": (), "audio_targets": 0}
    assert not [name for name in scalars(record_of(train_step(**text))) if "audio_" in name and "targets" not in name]
    half = {"audio_loss_per_codebook": (3.0, 0.0), "audio_accuracy_per_codebook": (0.5, None)}
    codebooks = {name for name in scalars(record_of(train_step(**half))) if "codebook" in name}
    assert codebooks == {"train/audio_loss/codebook_0", "train/audio_accuracy/codebook_0"}


def test_what_is_not_finite_is_no_scalar():
    """NaN is null in the record, and drawn nowhere."""
    assert "train/loss" not in scalars(record_of(train_step(loss=float("nan"))))


def test_no_tracker_is_given_what_it_does_not_show():
    """Counts and checkpoints stay in the log; a record of millions of tokens is cut."""
    assert admitted(record_of(token_counts())) is admitted(record_of(checkpoint())) is None
    long = admitted(record_of(audio_sample(first=window(range(100_000)))))
    assert len(row(long)["first_labels"]) < 64 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_is_named_with_its_remedy(name, monkeypatch, trackio_store):
    """Before the training begins, not in it."""
    module = {"trackio": "trackio.sqlite_storage", "tensorboard": "tensorboard.summary.writer.record_writer"}
    monkeypatch.setitem(sys.modules, module.get(name, name), None)
    with pytest.raises(
        SinkError, match=rf"{name}: expected its library, .*pip install 'higgs-audio-trainer\[{name}\]'"
    ):
        sinks.build(name, context())


def test_an_unknown_option_is_answered_with_the_known_ones():
    """The options of a tracker are those of its own function."""
    with pytest.raises(SinkError, match="wandb: expected options: project, dir"):
        sinks.build("wandb:mode=online", context())


def test_trackio_has_one_store_in_a_process(trackio_store, tmp_path):
    """A folder that cannot be had any more is said; the one that is open may be named."""
    sinks.build("trackio", context())
    sinks.build(f"trackio:dir={trackio_store}", context())
    with pytest.raises(SinkError, match="TRACKIO_DIR"):
        sinks.build(f"trackio:dir={tmp_path}", context())


def test_libraries_are_imported_when_a_sink_is_made():
    """Finding a tracker's factory loads none of them."""
    script = (
        f"import sys\nfrom sinks.specification import resolve\nfor name in {NAMES}:\n    resolve(name)\n"
        f"print(*{{*{NAMES}, 'pyarrow'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
