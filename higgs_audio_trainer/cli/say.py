"""Command `say OUT TEXT -o FILE`. Speaks a text with the adapter of a training, or with a base checkpoint."""

from __future__ import annotations

import argparse
import io
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from higgs_audio_trainer.atomic_file import check_writable
from higgs_audio_trainer.bounds import MAX_TEXTS_BYTES
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, add_quantization, bits_of
from higgs_audio_trainer.documents import read_within
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports
from sinks.terminal.screen import say_on_stderr

if TYPE_CHECKING:
    from higgs_audio_trainer.checkpoint.speaking_model import SpeakingModel
    from higgs_audio_trainer.data.codec import Codec
    from higgs_audio_trainer.families.speech import Speech
    from higgs_audio_trainer.voice.sentences import Sentence

_ENDINGS = (".wav", ".flac")
_SEEDS = 2**32


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage=f"{prog} [OUT] [TEXT] -o FILE [flags]",
        description="Speak TEXT, - for stdin, with a training or checkpoint OUT or --base_ckpt alone.",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        epilog=f'example: {prog} out "Bonjour tout le monde." -o hello.wav',
    )
    made.add_argument("words", metavar="OUT TEXT", nargs="*", help=argparse.SUPPRESS)
    made.add_argument("-o", "--output", metavar="FILE", required=True, help="WAV or FLAC; a folder for --text_file")
    made.add_argument("--text_file", metavar="FILE", help="a text a line, or JSON Lines; - for stdin")
    made.add_argument("--base_ckpt", metavar="NAME", help="base checkpoint [that of the training]")
    made.add_argument("--audio_tokenizer", metavar="NAME", help="codec [that of the base checkpoint]")
    made.add_argument("--ref_audio", metavar="FILE", help="recording of the voice to speak with")
    made.add_argument("--ref_text", metavar="TEXT", help="text of --ref_audio")
    made.add_argument("--scene", metavar="TEXT", help="description of the scene")
    made.add_argument("--temperature", metavar="X", type=float, default=0.3, help="0: most likely codes [%(default)s]")
    made.add_argument("--top_p", metavar="X", type=float, default=0.95, help="probability that is kept [%(default)s]")
    made.add_argument("--top_k", metavar="N", type=int, default=50, help="codes that are kept; 0: all [%(default)s]")
    made.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of the choices, for each batch [%(default)s]"
    )
    made.add_argument("--max_seconds", metavar="S", type=float, default=30.0, help="longest sentence [%(default)g]")
    made.add_argument("--batch_size", metavar="N", type=int, default=8, help="sentences at once [%(default)s]")
    made.add_argument("--device", metavar="NAME", help="device, such as cuda:1 [cuda if there is one]")
    add_quantization(made, "base model in {} bit, or --load_in_{}bit")
    made.add_argument("--force", action="store_true", help="replace existing files")
    return made


class _Job(NamedTuple):
    sentence: Sentence
    path: Path


def run(arguments: Sequence[str], prog: str) -> int:
    """Speak, and return the exit status.

    Raises:
        UserError: An argument is wrong, a file is missing or exists, or the model or the codec cannot be loaded.
    """
    given = parser(prog).parse_args(arguments)
    _check_numbers(given)
    adapter, jobs = _jobs(given)
    with phase(STARTING, is_slow=True):
        prepare_imports()
        import torch

        from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model
        from higgs_audio_trainer.data.codec import Codec
        from higgs_audio_trainer.planning.machine import check_device
        from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

    quiet_third_parties()
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    opened = open_speaking_model(
        adapter, base_ckpt=given.base_ckpt, audio_tokenizer=given.audio_tokenizer, device=device, bits=bits_of(given)
    )
    codec = Codec(opened.codec_name, device=device, num_codebooks=opened.checkpoint.ids.num_codebooks)
    if adapter is not None and opened.trained != Path(adapter):
        say_on_stderr(f"{adapter}: no adapter of a training that came to its end. {opened.trained} speaks.")
    for job, speech, speed in _spoken(jobs, opened, codec, given):
        with phase("decoding the speech"):
            seconds = _write(job.path, speech, codec)
        how = "stopped by itself" if speech.stopped else "did not stop by itself (--max_seconds)"
        print(f"{job.path}: {seconds:.1f} s, {how}, {speed:.1f}x real time", flush=True)
    return 0


def _check_numbers(given: argparse.Namespace) -> None:
    bounds = {
        "temperature": (0 <= given.temperature < math.inf, "0 or more"),
        "top_p": (0 < given.top_p <= 1, "more than 0 and at most 1"),
        "top_k": (given.top_k >= 0, "0 or more"),
        "max_seconds": (0 < given.max_seconds < math.inf, "more than 0"),
        "batch_size": (given.batch_size >= 1, "at least 1"),
        "seed": (0 <= given.seed < _SEEDS, f"0 to {_SEEDS - 1}"),
    }
    for name, (is_valid, expected) in bounds.items():
        if not is_valid:
            raise UserError(f"--{name}: expected {expected}, got {getattr(given, name):g}")


def _jobs(given: argparse.Namespace) -> tuple[str | None, list[_Job]]:
    """Return the folder of the adapter, or None, and the sentences with the files to write."""
    words = list(given.words)
    output = Path(given.output)
    is_file = output.suffix.lower() in _ENDINGS
    if given.text_file is None:
        if not words:
            raise UserError("expected a text to speak, or --text_file, got neither")
        text = words.pop()
        if not is_file:
            raise UserError(f"-o {output}: expected a name that ends in .wav or .flac")
    elif is_file:
        raise UserError(f"-o {output}: expected a folder for the sentences of --text_file")
    if len(words) > 1 or (not words and given.base_ckpt is None):
        raise UserError(
            f"expected the output directory of a training{'' if given.text_file else ' and a text'}, got {given.words}"
        )
    jobs = [_Job(_of_text(text, given), output)] if given.text_file is None else _of_file(given, output)
    for job in jobs:
        _check_place(job.path, given.force)
    return (words[0] if words else None), jobs


def _of_text(text: str, given: argparse.Namespace) -> Sentence:
    """Return the sentence of the command line, or of the standard input."""
    from higgs_audio_trainer.voice.sentences import Sentence, checked_text

    if text == "-":
        try:
            text = read_within(sys.stdin.buffer, MAX_TEXTS_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError("stdin: expected UTF-8, got other bytes. Convert the text with iconv.") from error
        except ValueError as error:
            raise UserError(f"stdin: {error}. Give a shorter text.") from error
    return _with_defaults(Sentence("speech", checked_text(text, "", "TEXT")), given)


def _of_file(given: argparse.Namespace, folder: Path) -> list[_Job]:
    from higgs_audio_trainer.voice.sentences import file_names, read_sentences

    sentences = read_sentences(Path(given.text_file))
    names = file_names(sentences)
    return [
        _Job(_with_defaults(sentence, given), folder / name) for sentence, name in zip(sentences, names, strict=True)
    ]


def _with_defaults(sentence: Sentence, given: argparse.Namespace) -> Sentence:
    """Return the sentence with the voice and the scene of the flags, where the file names none."""
    from higgs_audio_trainer.voice.sentences import checked_recording, checked_text

    if given.ref_text is not None and given.ref_audio is None:
        raise UserError("--ref_text: expected the recording of the text too, --ref_audio FILE")
    if sentence.ref_audio is None and given.ref_audio is not None:
        spoken = None if given.ref_text is None else checked_text(given.ref_text, "", "--ref_text")
        recording = checked_recording(given.ref_audio, Path(), "", "--ref_audio")
        sentence = replace(sentence, ref_audio=recording, ref_text=spoken)
    if sentence.scene is None and given.scene is not None:
        sentence = replace(sentence, scene=checked_text(given.scene, "", "--scene"))
    return sentence


def _check_place(path: Path, force: bool) -> None:
    """Check that a file can be written, before minutes are spent on the speech."""
    if path.is_dir():
        raise UserError(f"{path}: Is a directory. Name another place with -o.")
    if not force and path.exists():
        raise UserError(f"{path}: exists. Pass --force to replace the file")
    try:
        check_writable(path.parent)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}. Name another place with -o.") from error


def _spoken(
    jobs: Sequence[_Job], opened: SpeakingModel, codec: Codec, given: argparse.Namespace
) -> Iterator[tuple[_Job, Speech, float]]:
    """Yield what the model says of each sentence, and how many times as fast as real time."""
    import torch

    from higgs_audio_trainer.families.speech import Decoding
    from higgs_audio_trainer.voice.generation import speak
    from higgs_audio_trainer.voice.sentence_prompts import prompts_of

    rate = codec.sampling_rate_hz / codec.hop_length
    max_frames = max(1, math.ceil(given.max_seconds * rate))
    prompts = prompts_of([job.sentence for job in jobs], opened.checkpoint, lambda: codec, max_frames=max_frames)
    decoding = Decoding(given.temperature, given.top_p, given.top_k, given.seed, max_frames)
    model = opened.model
    for at in range(0, len(jobs), given.batch_size):
        part = slice(at, at + given.batch_size)
        begun = time.perf_counter()
        try:
            with phase(f"speaking {_place(at, len(jobs[part]), len(jobs))}"):
                spoken = speak(model, prompts[part], decoding, opened.checkpoint)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"--device {opened.device}: has no memory left. Pass a lower --batch_size or --max_seconds, or "
                "name another device."
            ) from error
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise UserError(
                f"{opened.checkpoint.name}: expected finite logits, got NaN or infinity. A weight of the base "
                "checkpoint or of the adapter is damaged: see the diagnoses of the training."
            ) from error
        took = time.perf_counter() - begun
        speed = sum(speech.codes_KT.shape[1] for speech in spoken) / rate / took
        for job, speech in zip(jobs[part], spoken, strict=True):
            yield job, speech, speed


def _place(done: int, count: int, total: int) -> str:
    """Return which sentences are spoken.

    Example:
        >>> _place(0, 1, 1), _place(8, 8, 20)
        ('the sentence', 'sentences 9 to 16 of 20')
    """
    return "the sentence" if total == 1 else f"sentences {done + 1} to {done + count} of {total}"


def _write(path: Path, speech: Speech, codec: Codec) -> float:
    """Write a file and return the seconds of audio."""
    import numpy as np
    import soundfile

    from higgs_audio_trainer.atomic_file import atomic_file, make_folder

    has_frames = speech.codes_KT.shape[1] > 0
    waveform = codec.decode(speech.codes_KT) if has_frames else np.zeros(0, dtype=np.float32)
    steps = (waveform.clip(-1, 1) * (2**15 - 1)).round().astype(np.int16)  # the same in both formats
    contents = io.BytesIO()  # libsndfile would hide the reason of a failed write
    soundfile.write(contents, steps, codec.sampling_rate_hz, format=path.suffix[1:].upper(), subtype="PCM_16")
    try:
        make_folder(path.parent)
        with atomic_file(path, mode=0o644) as file:
            file.write(contents.getvalue())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Name another place with -o.") from error
    return len(waveform) / codec.sampling_rate_hz
