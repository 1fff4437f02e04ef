"""The audit of files: faults planted in audio files, and real recordings with what is truly wrong with them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.data.audit.audit import audit_samples
from tests.audited import audited

RATE = 24_000
TEXTS = [f"Sentence {word} of the corpus." for word in ("one", "two", "three", "four", "five", "six")]


def voice(number, seconds=2.0, rate=RATE):
    """Return a sound with the swings of speech, of its own for each number."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(number).normal(size=len(time))
    tone = sum(np.sin(2 * np.pi * (110 + number) * k * time + k * k) for k in range(1, 12)) / 12
    return 0.3 * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) * (tone + 0.1 * noise)


def corpus(folder, name="train", first=0, plant=None, **fields):
    """Write a manifest of six recordings, with other samples or fields for the third."""
    lines = []
    for number, text in enumerate(TEXTS):
        samples, rate = voice(first + number), RATE
        line = {"id": f"{name}-{number}", "audio": f"{name}-{number}.wav", "text": f"{text} {name}"}
        if number == 2:
            samples, rate = (samples, rate) if plant is None else plant(samples)
            line |= fields
        if not (folder / line["audio"]).exists():
            soundfile.write(folder / line["audio"], samples, rate, subtype=fields.get("subtype", "PCM_16"))
        line.pop("subtype", None)
        lines.append(line)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def found(*manifests):
    """Return the code and the place of the first sample of each finding."""
    rows = [audited(manifest)[0] for manifest in manifests]
    findings = audit_samples(*rows).findings
    return [(item.code, Path(item.samples[0].where).name) for item in findings]


def test_sound_files_have_no_findings(tmp_path):
    """Two corpora without faults are silent."""
    assert found(corpus(tmp_path), corpus(tmp_path, "eval", 10)) == []


def silent_ends(seconds):
    return lambda samples: (np.concatenate([np.zeros(round(seconds * RATE)), samples, np.zeros(RATE // 4)]), RATE)


@pytest.mark.parametrize(
    ("plant", "subtype", "codes"),
    [
        (lambda samples: (samples * 0, RATE), "PCM_16", ["silent"]),
        (lambda samples: (np.clip(8 * samples, -1, 0.99), RATE), "PCM_16", ["clipped"]),
        (lambda samples: (samples + 0.1, RATE), "PCM_16", ["offset"]),
        (lambda samples: (np.stack([samples, -samples], axis=1), RATE), "PCM_16", ["cancelling_channels"]),
        (lambda samples: (8 * samples, RATE), "FLOAT", ["beyond_full_scale"]),
        (lambda samples: (samples[::3], RATE // 3), "PCM_16", ["low_rate"]),
        (silent_ends(1.3), "PCM_16", ["leading_silence"]),
        (lambda samples: (silent_ends(1.3)(samples)[0][::-1], RATE), "PCM_16", ["trailing_silence"]),
    ],
)
def test_planted_in_a_file(tmp_path, plant, subtype, codes):
    """A fault of one file is found at its line."""
    assert found(corpus(tmp_path, plant=plant, subtype=subtype)) == [(code, "train.jsonl:3") for code in codes]


def test_leak_under_another_name_and_format(tmp_path):
    """A copy in another format, under another name and id, is the same recording."""
    train = corpus(tmp_path)
    samples, rate = soundfile.read(tmp_path / "train-4.wav", dtype="int16")
    soundfile.write(tmp_path / "copy.flac", samples, rate)
    evaluation = corpus(tmp_path, "eval", 10, audio="copy.flac", text=f"{TEXTS[4]} train")
    assert found(train, evaluation) == [("leak", "eval.jsonl:3"), ("same_text", "eval.jsonl:3")]


def test_references(tmp_path):
    """An evaluation recording as a reference of the training is found; a training recording is none."""
    evaluation = corpus(tmp_path, "eval", 10)
    train = corpus(tmp_path, ref_audio="eval-0.wav")
    assert found(train, evaluation) == [("reference_leak", "train.jsonl:3")]
    assert found(corpus(tmp_path, ref_audio="train-0.wav"), evaluation) == []


def test_two_transcripts(tmp_path):
    """One file with two texts is found in both lines."""
    train = corpus(tmp_path, audio="train-1.wav")
    assert found(train) == [("two_transcripts", "train.jsonl:2")]


SOUNDS = Path("/usr/share/asterisk/sounds")
LETTERS = "one_character"
#: Recorded prompts of five languages, and what is truly wrong with each set: code and first sample.
#: All prompts are telephone speech of 8 kHz, and some are letters.
PROMPTS = {
    "en": (
        "en_US_f_Allison",
        {
            "low_rate": None,
            "leading_silence": "demo-moreinfo",  # 1.06 s
            "trailing_silence": "demo-instruct",  # 1.08 s
            "double_spaces": "agent-alreadyon",  # after a full stop
            LETTERS: "letters/a",
        },
    ),
    "es": (
        "es_MX_f_Allison",
        {
            "two_transcripts": "digits/0",  # "cero" and "diez" for the same file
            "same_id": "digits/0",
            "low_rate": None,
            "speaking_rate": "spy-misdn",  # "M I S D N", letter by letter
            "double_spaces": "vm-opts-full",
            LETTERS: "digits/and",
        },
    ),
    "fr": ("fr_CA_f_June", {"low_rate": None, "double_spaces": "dir-intro", LETTERS: "letters/a"}),
    "it": (
        "it_IT_m_Carlo",
        {
            "low_rate": None,
            "speaking_rate": "confbridge-join",  # "un suono di beep ascendente": the file is a beep of 0.3 s
            "double_spaces": "priv-callee-options",
            LETTERS: "digits/e",
        },
    ),
    "ru": (
        "ru_RU_f_IvrvoiceRU",
        {
            "low_rate": None,
            "double_spaces": "agent-alreadyon",
            "mixed_scripts": "vm-first",  # a Latin o and e in a Russian word
            LETTERS: "digits/at",
        },
    ),
}


def prompts_of(language, sounds):
    """Yield manifest lines of the spoken prompts of a language."""
    transcripts = Path(f"/usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz")
    for line in gzip.decompress(transcripts.read_bytes()).decode().splitlines():
        name, colon, text = line.partition(": ")
        audio = sounds / f"{name}.wav"
        is_speech = colon and text.strip() and not line.startswith(";") and not set("[]<>()") & set(text)
        if is_speech and audio.is_file() and soundfile.info(audio).frames:
            yield {"audio": str(audio), "text": text}, name


@pytest.mark.parametrize("language", PROMPTS)
def test_real_recordings(tmp_path, language):
    """The audit says of real recordings what is true of them, and nothing else."""
    folder, expected = PROMPTS[language]
    if not (SOUNDS / folder).is_dir():
        pytest.skip(
            f"needs the Debian packages asterisk-core-sounds-{language} and asterisk-core-sounds-{language}-wav"
        )
    lines = list(prompts_of(language, SOUNDS / folder))
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("".join(json.dumps(line | {"id": str(n)}) + "\n" for n, (line, _) in enumerate(lines)))
    names = [name for _, name in lines]
    rows, problems = audited(manifest)
    assert problems == []
    rows = [row._replace(id=names[int(row.id)]) for row in rows]
    findings = audit_samples(rows).findings
    first = {item.code: item.samples[0].id for item in findings}
    assert first == {code: name or first.get(code) for code, name in expected.items()}
