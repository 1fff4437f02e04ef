"""The audit: each planted fault is found where it was planted, and sound data has no findings."""

import random
from dataclasses import replace

import pytest

from higgs_audio_trainer.data.audio_facts import AudioFacts
from higgs_audio_trainer.data.audit.audit import audit_samples
from higgs_audio_trainer.data.audit.findings import KINDS
from higgs_audio_trainer.data.audit.rows import AuditedClip, AuditedSample, spoken_clips
from higgs_audio_trainer.data.audit.verdict import level_of, strict_error
from higgs_audio_trainer.data.byte_tokens import partial_tokens
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.errors import InputProblem
from higgs_audio_trainer.families.v2.tiny import build_tokenizer

FACTS = AudioFacts(
    rate=24_000,
    channels=1,
    frames=48_000,
    promised_frames=48_000,
    peak=0.5,
    level_dbfs=-20.0,
    clipped_share=0.0,
    beyond_share=0.0,
    offset=0.0,
    cancels=False,
    leading_silence_s=0.1,
    trailing_silence_s=0.2,
    content_hash="",
)
WORDS = ["the", "kettle", "is", "on", "and", "nobody", "knows", "which", "train", "comes", "home", "before", "morning"]
ARABIC = ["القهوة", "جاهزة", "على", "الطاولة", "وصباح", "الخير", "يا", "صديقي", "العزيز"]


def sample(number, split="train", words=WORDS, **changes):
    """Make a sample of sound data: about 12 letters a second, a recording and a text of its own."""
    rng = random.Random(f"{number} {split}")
    text = " ".join(rng.choices(words, k=rng.randint(4, 16)))
    clip = AuditedClip(
        text=changes.pop("text", text),
        seconds=0.3 + len(text) / 14,
        audio_hash=changes.pop("audio_hash", f"{rng.getrandbits(128):032x}"),
        codes_hash=changes.pop("codes_hash", f"{rng.getrandbits(128):032x}"),
        facts=replace(FACTS, **changes.pop("facts", {})),
    )
    clips = (*changes.pop("references", ()), clip)
    made = AuditedSample(f"{split}-{number}", f"data/{split}.jsonl:{number}", clips, speaker="amal")
    return made._replace(**changes)


def stretch(made, file, start, seconds):
    """Make the clip of a sample a stretch of a file."""
    return made._replace(clips=(made.clips[0]._replace(file_hash=file, start_s=start, seconds=seconds),))


def samples(count=30, split="train", words=WORDS):
    """Make sound data."""
    return [sample(number, split, words) for number in range(1, count + 1)]


def found(train, evaluation=()):
    """Return the findings as code, severity, count, and place of the first sample."""
    return [
        (item.code, item.severity, item.count, item.samples[0].where)
        for item in audit_samples(train, evaluation).findings
    ]


def reference(of, **changes):
    """Make a reference of another sample's recording."""
    return of.clips[-1]._replace(is_reference=True, **changes)


class TestSoundData:
    """What has no faults is silent."""

    @pytest.mark.parametrize("words", [WORDS, ARABIC], ids=["Latin", "Arabic"])
    def test_no_findings(self, words):
        """Sound data has no findings, with references of other samples and a speaker, in each script."""
        train, evaluation = samples(60, words=words), samples(30, "eval", words)
        train = [item._replace(clips=(reference(train[n - 1]), *item.clips)) for n, item in enumerate(train)]
        evaluation = [
            item._replace(clips=(reference(evaluation[n - 1]), *item.clips)) for n, item in enumerate(evaluation)
        ]
        audit = audit_samples(train, evaluation)
        assert audit.findings == ()
        assert level_of(audit) == "info"
        assert strict_error(audit) is None

    def test_evaluation_may_have_references_of_the_training(self):
        """The voice of an evaluation sample may come from a training recording."""
        train, evaluation = samples(), samples(5, "eval")
        evaluation = [item._replace(clips=(reference(train[0]), *item.clips)) for item in evaluation]
        assert found(train, evaluation) == []

    def test_nothing_at_all(self):
        """No samples are no findings."""
        audit = audit_samples([])
        assert audit.findings == ()
        assert audit.splits["train"].samples == 0
        assert audit.splits["train"].audio_hours is None
        assert "eval" not in audit.splits

    @pytest.mark.parametrize(
        "text",
        [
            "می‌خواهم به خانه بروم",  # ZWNJ in Persian
            "क्‍ष और क्‌ष",  # ZWJ and ZWNJ in Devanagari
            "A family 👨‍👩‍👧‍👦 and a heart ❤️‍🔥",  # emoji joined
            "The flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿 of England",
            "العربية \u200fHiggs\u200e هنا",  # marks of direction
            "អ្នក\u200bទៅ\u200bណា",  # Khmer words
            "القهوة من Starbucks جاهزة",
            "私はAIが好きです、カタカナも。",
            "Купил iPhone 15 в магазине",
            "T-образный разъём и USB-порт",
            "Covid-19 and H2O at 10 μm, 5 µg",
            "l’été à l’hôtel – déjà-vu… «oui»",
            "No\u00a0break",
            "Zeile eins\nZeile zwei",
            "β-blocker",
        ],
    )
    def test_texts_that_are_right(self, text):
        """Characters that a script, an emoji or a brand needs are no faults."""
        assert found([sample(1, text=text)]) == []

    @pytest.mark.parametrize("text", ["好", "네", "あ"])
    def test_a_syllable_is_a_word(self, text):
        """One character of a syllabic script may be a word."""
        assert found([sample(1, text=text)]) == []


SOUND_FAULTS = [
    ("silent", {"level_dbfs": None}),
    ("silent", {"level_dbfs": -75.0}),
    ("shorter", {"promised_frames": 60_000}),
    ("clipped", {"clipped_share": 0.01}),
    ("offset", {"offset": -0.05}),
    ("cancelling_channels", {"cancels": True, "channels": 2}),
    ("low_rate", {"rate": 8_000}),
    ("leading_silence", {"leading_silence_s": 1.2}),
    ("trailing_silence", {"trailing_silence_s": 1.5}),
    ("beyond_full_scale", {"beyond_share": 0.001, "peak": 1.5}),
]
TEXT_FAULTS = [
    ("empty_text", "…"),
    ("empty_text", "\u200b\u200b"),
    ("one_character", "a"),
    ("one_character", "7"),
    ("soundless_characters", "Good\u200bmorning everyone"),
    ("soundless_characters", "Good \x07 morning"),
    ("soundless_characters", "caf\ufffd au lait"),
    ("soundless_characters", "soft\u00adhyphen"),
    ("soundless_characters", "\ufeffGood morning"),
    ("soundless_characters", "a\u200dsimple\u200cword"),
    ("soundless_characters", "left\u202eright"),
    ("double_spaces", "Good  morning"),
    ("double_spaces", "Good \u00a0morning"),
    ("double_spaces", "Good\t\tmorning"),
    ("mixed_scripts", "I paid with pаypal today"),  # a Cyrillic a
    ("mixed_scripts", "первoe сообщение"),  # Latin o and e
    ("mixed_scripts", "a ρarty"),  # a Greek rho
]


class TestPlanted:
    """Each fault is found in the sample where it was planted."""

    @pytest.mark.parametrize(("code", "facts"), SOUND_FAULTS)
    def test_sound(self, code, facts):
        """A fault of the sound is found, in a target and in a reference."""
        train = samples()
        train[6] = sample(7, facts=facts)
        assert found(train) == [(code, KINDS[code].severity, 1, "data/train.jsonl:7")]
        faulty = reference(train[6], audio_hash="ab" * 16, codes_hash=None)
        train[6] = sample(7, references=(faulty,))
        (finding,) = audit_samples(train).findings
        assert finding.code == code
        assert finding.samples[0].detail.startswith("reference: ")

    @pytest.mark.parametrize(
        "facts",
        [
            {"promised_frames": 48_000 + 2_000},  # the packets of an MP3 file
            {"leading_silence_s": 1.0},
            {"rate": 16_000},
            {"offset": 0.003},
            {"clipped_share": 1e-4},
        ],
    )
    def test_sound_within_limits(self, facts):
        """What every recording has is no fault."""
        assert found([sample(1, facts=facts)]) == []

    @pytest.mark.parametrize(("code", "text"), TEXT_FAULTS)
    def test_text(self, code, text):
        """A fault of the text is found."""
        train = samples()
        train[2] = sample(3, text=text)
        assert code in [item[0] for item in found(train) if item[3] == "data/train.jsonl:3"]

    def test_details(self):
        """The detail of a sample names the character, the number or the other sample."""
        train = samples()
        train[0] = sample(1, text="Good\u200bmorning all of you", facts={"level_dbfs": -75.0})
        details = {item.code: item.samples[0].detail for item in audit_samples(train).findings}
        assert details == {"silent": "-75 dBFS", "soundless_characters": "U+200B ZERO WIDTH SPACE"}

    @pytest.mark.parametrize("key", ["audio_hash", "codes_hash"])
    def test_leak(self, key):
        """The same recording in both manifests is an error, by its audio or by its codes alone, under any name."""
        train, evaluation = samples(), samples(10, "eval")
        evaluation[3] = sample(4, "eval", **{key: getattr(train[8].clips[0], key)})
        audit = audit_samples(train, evaluation)
        finding, other = audit.findings
        assert other.code == "two_transcripts"  # under another text as well
        assert (finding.code, finding.severity, finding.count) == ("leak", "error", 2)
        assert finding.by_split == {"eval": 1, "train": 1}
        assert [(item.where, item.id, item.detail) for item in finding.samples] == [
            ("data/eval.jsonl:4", "eval-4", "as data/train.jsonl:9 (train-9)")
        ]
        assert level_of(audit) == "error"
        assert str(strict_error(audit)).startswith(
            "--strict_data: expected data without errors, got leak, two_transcripts\n"
        )
        assert "data/eval.jsonl:4 (eval-4), as data/train.jsonl:9 (train-9)" in str(strict_error(audit))

    def test_leak_of_a_stretch(self):
        """A whole file and a stretch of it, or two stretches that overlap, are a leak. Neighbours are none."""
        train, evaluation = samples(), samples(10, "eval")
        train[8] = stretch(train[8], "aa", 0.0, 9.0)
        evaluation[3] = stretch(evaluation[3], "aa", 4.0, 3.0)
        (finding,) = [item for item in audit_samples(train, evaluation).findings if item.code == "leak"]
        assert (finding.severity, finding.by_split) == ("error", {"eval": 1, "train": 1})
        assert [(item.where, item.detail) for item in finding.samples] == [
            ("data/eval.jsonl:4", "as data/train.jsonl:9 (train-9)")
        ]
        evaluation[3] = stretch(evaluation[3], "aa", 8.9, 3.0)  # cut with a margin
        assert "leak" not in [item[0] for item in found(train, evaluation)]
        evaluation[3] = stretch(evaluation[3], "bb", 4.0, 3.0)
        assert "leak" not in [item[0] for item in found(train, evaluation)]

    def test_leaks_of_stretches_equal_a_comparison_of_all_pairs(self):
        """Many stretches of a few files: exactly those that have half a second in common with the other part leak."""
        rng = random.Random(0)
        plans = [(rng.choice(["a1", "b2", "c3"]), rng.uniform(0, 300), rng.uniform(0.6, 4)) for _ in range(120)]
        train = [stretch(sample(n), *plan) for n, plan in enumerate(plans[:60])]
        evaluation = [stretch(sample(n, "eval"), *plan) for n, plan in enumerate(plans[60:])]
        expected = {"train": set(), "eval": set()}
        for ours, (file, start, seconds) in enumerate(plans[:60]):
            for theirs, (other, begin, length) in enumerate(plans[60:]):
                if file == other and min(start + seconds, begin + length) - max(start, begin) > 0.5:
                    expected["train"].add(ours)
                    expected["eval"].add(theirs)
        (finding,) = [item for item in audit_samples(train, evaluation).findings if item.code == "leak"]
        assert finding.by_split == {split: len(numbers) for split, numbers in expected.items()}
        assert {item.id for item in finding.samples} == {f"eval-{n}" for n in sorted(expected["eval"])[:10]}

    def test_same_text(self):
        """The same text in both manifests is a note, whatever its case."""
        train, evaluation = samples(), samples(3, "eval")
        evaluation[1] = evaluation[1]._replace(
            clips=(evaluation[1].clips[0]._replace(text=train[0].clips[0].text.upper()),)
        )
        (finding,) = [item for item in audit_samples(train, evaluation).findings if item.code != "speaking_rate"]
        assert (finding.code, finding.severity) == ("same_text", "note")
        assert finding.samples[0].where == "data/eval.jsonl:2"

    def test_two_transcripts(self):
        """One recording with two texts is an error in both samples; with one text it is none."""
        train = samples()
        train[5] = sample(6, text=train[4].clips[0].text, audio_hash=train[4].clips[0].audio_hash)
        assert "two_transcripts" not in [item[0] for item in found(train)]
        train[5] = sample(6, text="Something else entirely", audio_hash=train[4].clips[0].audio_hash)
        (finding,) = [item for item in audit_samples(train).findings if item.code == "two_transcripts"]
        assert (finding.severity, finding.count) == ("error", 2)
        assert [item.detail for item in finding.samples] == [
            "as data/train.jsonl:6 (train-6)",
            "as data/train.jsonl:5 (train-5)",
        ]

    def test_transcript_of_a_reference(self):
        """The text of a reference is compared with the text of the same recording as a target."""
        train = samples()
        train[9] = sample(10, references=(reference(train[0], text="Not what is said"),))
        assert ("two_transcripts", "error", 2, "data/train.jsonl:1") in found(train)
        train[9] = sample(10, references=(reference(train[0], text=None),))
        assert found(train) == []

    def test_samples_with_several_faulty_clips(self):
        """Samples are named, not clips, where the target and the reference of each have another transcript."""
        train = samples(40)
        for number in range(0, 40, 2):
            one, other = train[number], train[number + 1]
            train[number + 1] = sample(number + 2, references=(reference(one, text="Not what is said"),))
            train[number] = one._replace(clips=(*one.clips, reference(other, text="Nor is this")))
        (finding,) = [item for item in audit_samples(train).findings if item.code == "two_transcripts"]
        assert (finding.count, len(finding.samples)) == (40, 10)
        evaluation = [sample._replace(where=sample.where.replace("train", "eval")) for sample in train]
        (leak,) = [item for item in audit_samples(train, evaluation).findings if item.code == "leak"]
        assert (leak.by_split["eval"], len(leak.samples)) == (40, 10)

    def test_same_id(self):
        """The same id twice in a manifest is an error; in two manifests it is none."""
        train = samples()
        train[11] = train[11]._replace(id="train-3")
        (finding,) = audit_samples(train).findings
        assert (finding.code, finding.severity, finding.count) == ("same_id", "error", 1)
        assert finding.samples[0].detail == "as data/train.jsonl:3 (train-3)"
        evaluation = [item._replace(id=f"train-{n}") for n, item in enumerate(samples(5, "eval"))]
        assert found(samples(), evaluation) == []

    def test_reference_leak(self):
        """A reference of the training that is an evaluation target is an error."""
        evaluation = samples(5, "eval")
        train = samples()
        train[1] = sample(2, references=(reference(evaluation[2]),))
        (finding,) = audit_samples(train, evaluation).findings
        assert (finding.code, finding.severity, finding.count) == ("reference_leak", "error", 1)
        assert finding.samples[0].where == "data/train.jsonl:2"
        assert finding.samples[0].detail == "as data/eval.jsonl:3 (eval-3)"

    def test_own_reference(self):
        """A reference that is the recording to speak is a warning."""
        train = samples()
        train[3] = sample(4, references=(reference(train[3]),))
        assert found(train) == [("own_reference", "warning", 1, "data/train.jsonl:4")]

    @pytest.mark.parametrize("seconds", [0.4, 30.0])
    def test_speaking_rate(self, seconds):
        """A text far too long or too short for its recording is found, compared with the rest of the script."""
        train = samples(40) + [sample(n, "train", ARABIC) for n in range(101, 141)]
        clip = train[20].clips[0]._replace(text="the kettle is on and nobody ever knows", seconds=seconds, facts=None)
        train[20] = train[20]._replace(clips=(clip,))
        (finding,) = audit_samples(train).findings
        assert (finding.code, finding.severity, finding.count) == ("speaking_rate", "warning", 1)
        assert finding.samples[0].where == "data/train.jsonl:21"
        assert "characters a second, usually " in finding.samples[0].detail

    def test_few_samples_have_no_usual_rate(self):
        """With few samples of a script nothing is unusual."""
        train = samples(10)
        train[2] = train[2]._replace(clips=(train[2].clips[0]._replace(seconds=60.0),))
        assert found(train) == []

    def test_byte_tokens(self):
        """A text that the tokenizer splits into bytes is a note; one emoji in a text is none."""
        assert found([sample(1, byte_tokens=60)]) == [("byte_tokens", "note", 1, "data/train.jsonl:1")]
        assert found([sample(1, byte_tokens=4)]) == []

    def test_unknown_control_tokens(self):
        """A control token that the tokenizer does not know is a warning that names the token, in a reference too."""
        train = samples()
        clip = train[4].clips[0]
        text = f"<|emotion:jjoy|><|sfx:sigh|>{clip.text}"
        unknown = clip._replace(text=text, unknown_tokens=("<|emotion:jjoy|>", "<|a|>"))
        train[4] = train[4]._replace(clips=(unknown,))
        train[7] = train[7]._replace(clips=(reference(train[4]), *train[7].clips))
        (finding,) = audit_samples(train).findings
        assert (finding.code, finding.severity, finding.count) == ("unknown_control_token", "warning", 2)
        assert [(item.where, item.detail) for item in finding.samples] == [
            ("data/train.jsonl:5", "<|emotion:jjoy|>, <|a|>"),
            ("data/train.jsonl:8", "reference: <|emotion:jjoy|>, <|a|>"),
        ]

    def test_control_tokens_are_not_spoken(self):
        """The letters of control tokens are no text: neither for the rate of speech nor for an empty text."""
        train = samples(40)
        clip = train[20].clips[0]
        train[20] = train[20]._replace(clips=(clip._replace(text="<|prosody:speed_very_slow|>" * 9 + clip.text),))
        assert found(train) == []
        assert found([sample(1, text="<|sfx:sigh|><|style:singing|>")])[0][0] == "empty_text"

    def test_left_out(self):
        """A sample that is left out is named once; a file that was cut off is shorter than its header says."""
        cut_off = InputProblem("t.jsonl:8", "audio", "480 samples, as its header says", "47: the file may be cut off")
        problems = [("train", InputProblem("t.jsonl:4", field, "a text", "nothing")) for field in ("text", "ref_text")]
        findings = audit_samples(samples(), left_out=[*problems, ("eval", cut_off)]).findings
        assert [(item.code, item.severity, item.by_split) for item in findings] == [
            ("left_out", "warning", {"train": 1}),
            ("shorter", "warning", {"eval": 1}),
        ]
        assert [item.samples[0].where for item in findings] == ["t.jsonl:4", "t.jsonl:8"]
        assert findings[0].samples[0].detail == "text: expected a text, got nothing"

    def test_order_and_bounds(self):
        """Errors come first, ten samples are named, and all are counted, a sample once for each kind."""
        train = [sample(n, facts={"rate": 8_000, "level_dbfs": None}) for n in range(1, 31)]
        train += [train[0]._replace(where="data/train.jsonl:31")]
        findings = audit_samples(train).findings
        assert [item.code for item in findings] == ["same_id", "silent", "low_rate"]
        assert [item.count for item in findings] == [1, 31, 31]
        assert [item.where for item in findings[1].samples] == [f"data/train.jsonl:{n}" for n in range(1, 11)]
        assert list(KINDS) == sorted(KINDS, key=lambda code: ("error", "warning", "note").index(KINDS[code].severity))

    def test_order_does_not_hang_on_batches(self, monkeypatch):
        """Samples are audited in batches of any size with the same result."""
        from higgs_audio_trainer.data.audit import audit as module

        evaluation = [sample(n, "eval", facts={"offset": 0.1}) for n in range(1, 9)]
        evaluation[2] = sample(3, "eval", audio_hash=samples()[20].clips[0].audio_hash)
        whole = audit_samples(samples(), evaluation)
        monkeypatch.setattr(module, "_BATCH", 7)
        assert audit_samples(samples(), evaluation) == whole


class TestStatistics:
    def test_figures(self):
        """Hours, lengths, speakers, recordings, rates and scripts are those of the targets, by split."""
        train = samples(20) + [sample(n, words=ARABIC, facts={"rate": 48_000}) for n in range(21, 31)]
        train[0] = train[0]._replace(speaker="badr")
        train[1] = train[0]._replace(id="again", where="data/train.jsonl:2")
        audit = audit_samples(train, samples(4, "eval"))
        split = audit.splits["train"]
        seconds = sorted(item.clips[0].seconds for item in train)
        assert (split.samples, split.recordings, split.speakers) == (30, 29, 2)
        assert split.audio_hours == pytest.approx(sum(seconds) / 3600, abs=1e-4)
        assert (split.shortest_s, split.longest_s) == (
            pytest.approx(seconds[0], abs=1e-3),
            pytest.approx(seconds[-1], abs=1e-3),
        )
        assert split.sampling_rates == {"24000": 20, "48000": 10}
        assert split.scripts == {"Latin": 20, "Arabic": 10}
        assert sum(split.length_counts) == 30
        assert split.length_counts[int(seconds[0] / split.length_bin_s)] > 0
        assert audit.splits["eval"].samples == 4

    def test_codes_alone(self):
        """Samples with codes have no rates, and no speakers where the manifest names none."""
        clip = AuditedClip("Good morning.", 2.0, None, "00ff")
        audit = audit_samples([AuditedSample("a", "t.jsonl:1", (clip,)), AuditedSample("b", "t.jsonl:2", (clip,))])
        split = audit.splits["train"]
        assert (split.samples, split.recordings, split.speakers, split.sampling_rates) == (2, 1, None, {})
        assert audit.findings == ()


def test_texts_of_a_manifest(tmp_path):
    """A clip's text is the text beside it, or the user's turn before it; a reference without a text has none."""
    for name in "abcde":
        (tmp_path / f"{name}.wav").touch()
    (tmp_path / "m.jsonl").write_text(
        '{"id": "a", "audio": "a.wav", "text": "One.", "ref_audio": "b.wav", "ref_text": "Two."}\n'
        '{"id": "c", "audio": "c.wav", "text": "Three.", "ref_audio": "d.wav"}\n'
        '{"id": "e", "messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": '
        '[{"type": "text", "text": "Four."}, {"type": "audio", "audio_url": "e.wav"}]}]}\n'
    )
    read, problems = read_manifest(tmp_path / "m.jsonl")
    assert problems == []
    spoken = [[(item.clip.path.name, item.text, item.is_reference) for item in spoken_clips(one)] for one in read]
    assert spoken == [
        [("b.wav", "Two.", True), ("a.wav", "One.", False)],
        [("d.wav", None, True), ("c.wav", "Three.", False)],
        [("e.wav", "Four.", False)],
    ]


def byte_fallback():
    """Make a tokenizer of whole characters with a token for each byte of the others."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}
    letters |= {f"<0x{byte:02X}>": len(letters) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("make", [build_tokenizer, byte_fallback])
def test_partial_tokens(make):
    """Tokens for parts of characters are told from whole characters, byte-level and with byte fallback."""
    tokenizer = make()
    partial = partial_tokens(tokenizer)
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the kettle", "شاي", "\n")}
    assert [int(partial[of_text].sum()) for of_text in ids.values()] == [0, 6, 0]
    assert partial.sum() == 128
