"""Audio previews of a training: codes from the model's rows, files from the codes, and decoders that fail."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.delay import delay_codes, delayed_labels
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.extraction import AudioRows
from higgs_audio_trainer.recording import decoder_process
from higgs_audio_trainer.recording.audio_previews import AudioPreviews, clips_of
from higgs_audio_trainer.recording.decoder_process import DecoderProcess, Job
from higgs_audio_trainer.run import run_training
from tests.builders import audio_sample, text_sample
from tests.samples import write_manifest
from tests.test_run import read_log, settings

BOS, EOS, CODES = 1024, 1025, 1024


def rows_of(*clips_of_samples, begin=7, with_stops=True):
    """Lay clips out as the model's rows, with a row for each frame that has a label. Gaps are text."""
    parts = []
    for sample, clips in enumerate(clips_of_samples):
        position = begin
        for codes_KT in clips:
            labels_FK = delayed_labels(delay_codes(codes_KT, bos=BOS, eos=EOS), codes_KT.shape[1])
            if not with_stops:
                labels_FK = np.where(labels_FK == EOS, IGNORE_INDEX, labels_FK)
            supervised = (labels_FK != IGNORE_INDEX).any(axis=1).nonzero()[0]
            parts.append(
                (np.full(len(supervised), sample), supervised + position, labels_FK[supervised].T),
            )
            position += len(labels_FK) + 4
    batch_index, position, labels = (np.concatenate(items, axis=-1) for items in zip(*parts, strict=True))
    return AudioRows(batch_index, position, labels, np.where(labels == IGNORE_INDEX, 3, labels))


class TestClips:
    @pytest.mark.parametrize("with_stops", [True, False])
    @pytest.mark.parametrize(("K", "T"), [(1, 1), (2, 5), (8, 1), (8, 3), (8, 60), (12, 7)])
    def test_codes_come_back(self, K, T, with_stops):
        """The delay pattern is undone for labels and for predictions that equal the labels."""
        random = np.random.default_rng(K * 100 + T)
        clips = [random.integers(0, CODES, (K, length)) for length in (T, T + 2, T + 5)]
        rows = rows_of([clips[0]], clips[1:], with_stops=with_stops)
        for sample, expected in enumerate((clips[:1], clips[1:])):
            found = list(clips_of(rows, sample, CODES))
            assert len(found) == len(expected)
            for (predicted, labels), codes in zip(found, expected, strict=True):
                assert np.array_equal(predicted, codes)
                assert np.array_equal(labels, codes)

    def test_what_is_no_code_is_the_one_before(self):
        """A predicted stop in the middle is replaced by the previous code, and at the beginning by code 0."""
        codes = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
        rows = rows_of([codes])
        rows.predictions[0, [0, 2]] = EOS, BOS
        [(predicted, labels)] = clips_of(rows, 0, CODES)
        assert predicted.tolist() == [[0, 6, 6, 8], [1, 2, 3, 4]]
        assert np.array_equal(labels, codes)

    def test_a_sample_without_labels(self):
        """A sample without labels has no clips, and the events have no links."""
        rows = rows_of([np.array([[1, 2]])])
        assert list(clips_of(rows, 1, CODES)) == []


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Train twice on two clips of random codes, with and without audio previews, and return the codes."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    codes = {name: random.integers(0, CODES, (8, length)) for name, length in (("one", 12), ("two", 20))}
    for name, codes_KT in codes.items():
        np.save(folder / f"{name}.npy", codes_KT)
    entries = [{"id": name, "text": f"This is {name}.", "codes": f"{name}.npy"} for name in codes]
    manifest = write_manifest(folder / "train.jsonl", *entries)
    for name, more in (("heard", {"log_audio": 2, "log_codebooks": "all", "log_window": 100}), ("bare", {})):
        run_training(settings(tiny, manifest, folder / name, grad_accum=1, log_steps=1, **more))
    return folder, codes


def test_training_is_not_changed(runs):
    """Adapters are equal bit by bit with and without audio previews."""
    folder, _ = runs
    heard, bare = ((folder / name / "adapter_model.safetensors").read_bytes() for name in ("heard", "bare"))
    assert heard == bare


def test_files_are_linked_and_are_those_of_due_steps(runs):
    """Step 1 and every second logged step have previews. Each link has a file, and each file has a link."""
    folder, _ = runs
    samples = [event for event in read_log(folder / "heard") if event["event"] == "prediction_sample"]
    linked = {event[name] for event in samples for name in ("predicted_audio", "label_audio")} - {None}
    steps, kinds = ("000001", "000002", "000004"), ("predicted", "label")
    assert linked == {f"audio/step-{step}-sample-{n}-{kind}.wav" for step in steps for n in (0, 1) for kind in kinds}
    assert {f"audio/{path.name}" for path in (folder / "heard" / "audio").iterdir()} == linked
    assert all(event["predicted_audio"] is None for event in samples if event["modality"] == "text")
    assert read_log(folder / "heard")[-1]["events_lost"] == 0
    assert not (folder / "bare" / "audio").exists()


def test_files_are_what_the_codec_decodes(runs, tiny):
    """Labels decode to the clip's own codes. Predictions decode to the codes of the events, slot by slot."""
    folder, codes = runs
    codec = Codec(str(tiny.codec_dir))
    samples = [event for event in read_log(folder / "heard") if event["event"] == "prediction_sample"]
    last = [event for event in samples if event["step"] == 4 and event["modality"] == "audio"]
    for index in (0, 1):
        of_sample = [event for event in last if event["sample_index"] == index]
        assert [event["codebook"] for event in of_sample] == list(range(8))
        predicted = np.array([_predicted_codes(event["first"]) for event in of_sample])
        expected = {"label_audio": codes[of_sample[0]["sample_id"]], "predicted_audio": predicted}
        for name, codes_KT in expected.items():
            samples_T, rate = soundfile.read(folder / "heard" / of_sample[0][name], dtype="float32")
            assert rate == codec.sampling_rate_hz
            np.testing.assert_allclose(samples_T, codec.decode(codes_KT), atol=2 / 2**15)


def _predicted_codes(window):
    found = []
    for label, predicted in zip(window["labels"], window["predictions"], strict=True):
        if 0 <= label < CODES:
            found.append(predicted if predicted < CODES else found[-1] if found else 0)
    return found


class TestDecoders:
    """Each plays a decoder by a few lines of Python."""

    @pytest.fixture
    def played(self, tmp_path, monkeypatch):
        """Make audio previews whose decoder is a script, with the started processes and the failures."""
        started, failed, popen = [], [], subprocess.Popen

        def start(*args, **kwargs):
            started.append(popen(*args, **kwargs))
            return started[-1]

        monkeypatch.setattr(decoder_process.subprocess, "Popen", start)

        def made(script, seconds=30.0):
            monkeypatch.setattr(
                decoder_process, "_DECODER", (sys.executable, "-c", f"import os, sys, signal\n{script}")
            )
            decoder = DecoderProcess(("codec",), tmp_path, seconds=seconds, fail=lambda e: failed.append(str(e)))
            return decoder, AudioPreviews(decoder, is_previewed=bool, num_codes=CODES), started, failed

        return made

    ROWS = rows_of([np.array([[1, 2], [3, 4]])])
    SAMPLES = (text_sample(), audio_sample(sample_index=0))
    HANG = "signal.pause()"
    ANSWER = 'for line in sys.stdin: os.write(1, b\'{"error": ""}\\n\')'

    def test_one_that_works(self, played):
        """One process makes all files, and is gone at the end."""
        decoder, heard, started, failed = played(self.ANSWER)
        samples = heard.request(7, self.SAMPLES, self.ROWS)
        heard.request(8, self.SAMPLES, self.ROWS)
        decoder.close(wait=True)
        decoder.close(wait=True)
        assert (samples[0].predicted_audio, samples[1].label_audio) == (None, "audio/step-000007-sample-0-label.wav")
        assert failed == []
        assert [process.poll() is not None for process in started] == [True]

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            (HANG, "expected the file within 0.2 seconds, got none. See --log_audio_seconds"),
            ("sys.exit(5)", "the decoder ended with status 5"),
            ("sys.exit('line\\nOSError: no codec\\n')", "the decoder ended with status 1: OSError: no codec"),
            ("sys.exit('x' * 9000)", "the decoder ended with status 1: " + "x" * 300),
            ("os.kill(os.getpid(), signal.SIGKILL)", "the decoder ended with status -9"),
            (
                'for line in sys.stdin: os.write(1, b\'{"error": "OSError: No space left"}\\n\')',
                "OSError: No space left",
            ),
        ],
    )
    def test_one_that_fails(self, played, script, said):
        """Each missing file is reported, the run waits for no file, and each failure ends the decoder process alone."""
        decoder, heard, started, failed = played(script, seconds=0.2 if script == self.HANG else 30.0)
        heard.request(7, self.SAMPLES, self.ROWS)
        decoder._jobs.put(None)
        decoder._thread.join()
        decoder.close(wait=False)
        kinds = ("predicted", "label")
        assert [line.partition(": ")[0] for line in failed] == [
            f"audio/step-000007-sample-0-{kind}.wav" for kind in kinds
        ]
        assert all(line.endswith(said) for line in failed)
        assert [process.poll() is not None for process in started] == [True, True]

    def test_one_that_hangs_at_the_end(self, played):
        """The end of the run does not wait for a decoder that hangs. Requested files are reported as missing."""
        decoder, heard, started, failed = played(self.HANG)
        heard.request(7, self.SAMPLES, self.ROWS)
        decoder.close(wait=False)
        assert len(failed) == 2
        assert all("the run ended first" in line for line in failed)
        assert all(process.poll() is not None for process in started)

    def test_one_that_is_too_slow(self, played, monkeypatch):
        """The number of waiting files is limited. Further files are reported, and the training never waits."""
        monkeypatch.setattr(decoder_process, "_MOST_WAITING", 8)
        decoder, heard, _, failed = played(self.HANG)
        for step in range(1, 12):
            heard.request(step, self.SAMPLES, self.ROWS)
        decoder.close(wait=False)
        assert len(failed) == 22
        assert any("8 files wait: decoding is too slow" in line for line in failed)

    def test_many_probes(self, played, monkeypatch):
        """A generation of more probes than may usually wait is taken whole."""
        monkeypatch.setattr(decoder_process, "_MOST_WAITING", 2)
        decoder, _, _, failed = played(self.ANSWER)
        answered = []
        for number in range(8):
            decoder.put(Job(f"{number}.wav", (np.zeros((8, 1), dtype=np.int64),), answered=answered.append), most=8)
        decoder.close(wait=True)
        assert (len(answered), None in answered, failed) == (8, False, [])

    def test_a_folder_that_cannot_be_written(self, played, tmp_path):
        """Something else is where the folder should be."""
        (tmp_path / "audio").write_text("not a folder")
        decoder, heard, _, failed = played(self.ANSWER)
        heard.request(7, self.SAMPLES, self.ROWS)
        decoder.close(wait=True)
        assert len(failed) == 2
        assert all("File exists" in line for line in failed)


def test_a_codec_that_is_not_there(tmp_path, monkeypatch):
    """The real decoder process reports a missing codec once for each file, in a folder from which no import works.

    With `-S` the process sees no installed package, only what the training process imports.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "soundfile.py").write_text("raise SystemExit('a module of the user')")
    monkeypatch.setattr(
        decoder_process, "_DECODER", (sys.executable, "-S", "-m", "higgs_audio_trainer.recording.audio_decoder")
    )
    failed = []
    decoder = DecoderProcess((str(tmp_path / "none"),), tmp_path, seconds=60.0, fail=failed.append)
    heard = AudioPreviews(decoder, is_previewed=bool, num_codes=CODES)
    heard.request(7, TestDecoders.SAMPLES, TestDecoders.ROWS)
    decoder.close(wait=True)
    assert len(failed) == 2
    assert all(
        "UserError: --audio_tokenizer: expected a folder or a name on the Hugging Face Hub" in str(e) for e in failed
    )


@pytest.mark.parametrize("changes", [{"log_audio": -1}, {"log_audio_seconds": 0.0}])
def test_bad_settings(tiny, clips, tmp_path, changes):
    """Bad settings are errors before anything is loaded."""
    [name] = changes
    with pytest.raises(UserError, match=f"--{name}: expected"):
        settings(tiny, clips, tmp_path, **changes)
