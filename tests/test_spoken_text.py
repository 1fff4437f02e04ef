"""The text that a sample speaks, from the manifest through the prepared data and the batch to the log."""

import orjson
import pytest
import soundfile

from higgs_audio_trainer.checkpoint.base_checkpoint import open_checkpoint
from higgs_audio_trainer.data.batch import FOR_THE_LOG, Collator, SpeechDataset
from higgs_audio_trainer.data.preparation import prepare as preparation
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.prepare_manifests import prepare_manifests
from tests.families import every_family
from tests.samples import entry, prepare_settings, write_manifest, write_tone
from tests.test_run import read_log, settings

ARABIC = "صباح الخير، كيف حالك اليوم؟"


def user(*texts):
    """Make a user's turn."""
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def assistant(*parts):
    """Make an assistant's turn of texts and clips."""
    content = [
        {"type": "audio", "audio_url": part} if part.endswith(".wav") else {"type": "text", "text": part}
        for part in parts
    ]
    return {"role": "assistant", "content": content}


SIMPLE = [
    (entry("ar", "a.wav", text=ARABIC), ARABIC),
    (entry("ref", "a.wav", text="Good night.", ref_audio="b.wav", ref_text="Good morning."), "Good night."),
    (entry("two-lines", "a.wav", text="Good\nnight."), "Good\nnight."),
    ({"id": "spelling", "audio": "a.wav", "normalized_text": "Twenty-one ships."}, "Twenty-one ships."),
]
CHATML = [
    ([user(ARABIC), assistant("a.wav")], ARABIC),
    ([user("Say it."), assistant("Good night.", "a.wav")], "Good night."),
    ([user("Not this."), assistant("b.wav"), user("Good night."), assistant("a.wav")], "Not this.\nGood night."),
    ([user("Good ", "night."), assistant("a.wav")], "Goodnight."),
    ([user("Say it."), assistant("Good", "a.wav", "night.")], "Good night."),
    ([user("Good night."), assistant("Good night."), assistant("a.wav")], None),
    ([user("Who speaks which?"), assistant("a.wav", "b.wav")], None),
    ([user("How are you?"), assistant("Nothing is spoken.")], None),
]


@pytest.fixture
def prepare(tiny, tmp_path):
    """Return a function that prepares a manifest of entries with two clips."""
    checkpoint = open_checkpoint(str(tiny.model_dir))
    for name, hz in (("a", 300), ("b", 500)):
        write_tone(tmp_path / f"{name}.wav", hz=hz)

    def call(*entries):
        manifest = write_manifest(tmp_path / "m.jsonl", *entries)
        options = prepare_settings(tiny.codec_dir, tmp_path / "codes", [])
        (dataset,), _ = prepare_manifests([str(manifest)], checkpoint, **options)
        return SpeechDataset(dataset, checkpoint.ids)

    call.checkpoint = checkpoint
    return call


@every_family
def test_a_batch_has_the_texts_of_its_samples(prepare):
    """In the simple form, the text is the text of the recording, as in the prompt. The model does not see the names."""
    dataset = prepare(*(line for line, _ in SIMPLE))
    examples = [dataset[index] for index in range(len(dataset))]
    batch = Collator(prepare.checkpoint.ids)(examples)
    assert [ref.text for ref in batch["samples"]] == [text for _, text in SIMPLE]
    assert "samples" in FOR_THE_LOG
    for example in examples:
        tokens = example.input_ids[example.input_ids >= 0]  # a placeholder of Higgs TTS 3 is no token
        assert example.ref.text in prepare.checkpoint.tokenizer.decode(tokens)


@pytest.mark.parametrize(("messages", "text"), CHATML)
def test_a_conversation_has_the_texts_of_its_supervised_recordings(prepare, messages, text):
    """It is the text beside the recording, or else in the user's turn before. Without either there is none."""
    assert prepare({"messages": messages})[0].ref.text == text


def test_a_turn_that_is_not_learned_is_not_the_text(prepare):
    """Recordings before `start_index` are references."""
    messages = [user("Not this."), assistant("b.wav"), user("Good night."), assistant("a.wav")]
    assert prepare({"messages": messages, "start_index": 2})[0].ref.text == "Good night."


def test_data_of_an_earlier_version_are_prepared_again_from_their_codes(prepare, monkeypatch):
    """A cache of an earlier format gives the texts too, and no recording is read again."""
    line = entry("ar", "a.wav", text=ARABIC)
    with monkeypatch.context() as earlier:
        earlier.setattr(preparation, "_FORMAT", 1)
        prepare(line)
    monkeypatch.setattr(soundfile, "SoundFile", None)
    monkeypatch.setattr(soundfile, "read", None)
    assert prepare(line)[0].ref.text == ARABIC


@every_family
def test_the_log_of_a_training_has_the_texts(tiny, clips, tmp_path):
    """Every `prediction_sample` has the text. `--log_text false` leaves the texts out and changes no adapter."""
    texts = {line["id"]: line["text"] for line in map(orjson.loads, clips.read_bytes().splitlines())}
    for name, log_text in (("with", True), ("without", False)):
        options = {"eval_manifest": str(clips), "val_steps": 2, "log_probes": 1, "log_text": log_text}
        run_training(settings(tiny, clips, tmp_path / name, max_steps=2, **options))
        samples = [event for event in read_log(tmp_path / name) if event["event"] == "prediction_sample"]
        assert {event["split"] for event in samples} == {"train", "eval", "probe"}
        for event in samples:
            assert event["text"] == (texts[event["sample_id"]] if log_text else None)
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("with", "without")]
    assert adapters[0] == adapters[1]
