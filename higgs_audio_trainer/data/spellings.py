"""Spellings of the fields of a manifest, and the words by which unknown fields are judged. Pure data.

A new spelling is a word in one of the tables. All names are in snake case.
"""

from __future__ import annotations

from collections.abc import Mapping

Table = Mapping[str, tuple[str, ...]]


def _with_british(*names: str) -> tuple[str, ...]:
    """Return names with their British spellings."""
    return (*names, *(name.replace("normalized", "normalised") for name in names))


NAMES: Table = {
    "id": ("utt_id", "utt", "utterance_id", "sample_id", "segment_id", "uid", "uuid", "key"),
    "speaker": ("speaker_id", "speaker_name", "spk", "spk_id", "spkid", "client_id", "reader_id"),
}
SPEECH: Table = {
    "audio": (
        *("audio_filepath", "audio_file", "audio_filename", "audio_path", "audio_url", "audios"),
        *("file_name", "filename", "file", "filepath", "file_path", "path"),
        *("wav", "wav_path", "wav_file", "wav_filename", "speech", "speech_path", "sound"),
    ),
    "codes": ("audio_codes", "codes_path", "codes_file"),
    "text": (
        *("transcription", "transcript", "sentence", "transcript_text", "txt"),
        *_with_british(
            "normalized", "normalized_text", "text_normalized", "normalized_sentence", "sentence_normalized"
        ),
        *_with_british("normalized_transcription", "transcription_normalized"),
        *_with_british("normalized_transcript", "transcript_normalized"),
        *("text_norm", "norm_text"),
    ),
    "scene": ("scene_description", "scene_desc"),
}
#: Spellings of a text that is written as it is spoken. Beside another text, this text is read.
NORMALIZED = frozenset(name for name in SPEECH["text"] if "norm" in name)
REFERENCE: Table = {
    "ref_audio": (
        *(f"{word}_{kind}" for word in ("ref", "reference", "prompt") for kind in ("audios", "wav", "speech", "path")),
        *(f"{word}_audio_{kind}" for word in ("ref", "reference", "prompt") for kind in ("path", "file", "filepath")),
        *("reference_audio", "prompt_audio", "prompt_speech_path", "audio_prompt", "audio_prompt_path"),
        *("speaker_wav", "speaker_audio", "speaker_ref", "speaker_reference"),
    ),
    "ref_codes": ("reference_codes", "prompt_codes", "ref_audio_codes", "reference_audio_codes"),
    "ref_text": (
        *("reference_text", "prompt_text", "ref_texts", "reference_texts", "audio_prompt_text", "ref_audio_text"),
        *(f"{word}_{kind}" for word in ("ref", "reference", "prompt") for kind in ("transcript", "transcription")),
    ),
}
STRETCH: Table = {  # in seconds; a unit may follow the name
    "offset": ("start", "start_time", "begin", "begin_time", "audio_offset", "audio_start"),
    "end": ("end_time", "stop", "stop_time", "audio_end"),
    "duration": ("dur", "audio_duration"),
}
UNITS = {"_s": 1, "_sec": 1, "_secs": 1, "_seconds": 1, "_ms": 1_000}


def _words(text: str) -> list[str]:
    return text.split()


#: Words of notes about a text or a recording, such as `text_language` and `audio_id`.
NOTE_WORDS = frozenset(
    _words("""
        id ids idx index name lang langs language languages locale dialect accent gender sex age dur duration len
        length size rate hz sr samplerate hash md5 sha1 sha256 bytes format codec channels license dataset split
        score scores snr quality count num n type version phoneme phonemes phonemized ipa tokens translation emotion
        emotions domain topic confidence prob logprob wer cer mos dnsmos created annotator comment comments note notes
        pred predicted prediction hyp hypothesis asr
    """)
)
#: Texts before their preparation, which are not read. They occur beside the text that is read.
NOTES = frozenset(
    (
        *("raw_text", "text_raw", "original_text", "text_original", "orig_text", "text_no_preprocessing"),
        *("raw_transcript", "raw_transcription", "raw_sentence", "original_transcript", "original_transcription"),
    )
)

#: Words by which an unknown field may change what is heard or said, whatever else is in the name.
REFERENCE_WORDS = _words("ref refs reference references prompt prompts clone cloning enrollment")
AUDIO_WORDS = _words("audio audios wav wavs sound sounds speech recording recordings clip clips waveform")
TEXT_WORDS = _words("text texts transcript transcripts transcription sentence sentences")
CODES_WORDS = _words("codes codebooks")
PROMPT_WORDS = _words("messages conversation conversations dialog dialogue turns chat segments images videos tools")
SYSTEM_WORDS = _words("system instruction instructions instruct")
VOICE_WORDS = frozenset(_words("voice voices speaker spk timbre style target context history"))  # if with a recording
CHANNEL = "channel"  # of a recording if with a number
START_WORDS, END_WORDS = _words("offset offsets start begin"), _words("end stop")
WEIGHT_WORDS = _words("loss weight train trainable mask")
TIME_WORDS, WEIGHTS = frozenset((*START_WORDS, *END_WORDS)), frozenset(WEIGHT_WORDS)
TIMES = frozenset(("offset", "end", "duration"))
SILENT = frozenset(("id", "speaker", "misc", "type"))  # no problem if mistyped
RECORDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".aiff", ".aif")
