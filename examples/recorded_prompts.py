"""Train the tiny checkpoint on real recordings, telephone prompts of one speaker from two Debian packages.

    apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en
    python examples/recorded_prompts.py OUT_DIR [--samples 240] [more flags of train]

The script writes a manifest of the recordings (CC-BY-SA 3.0, read from the installed packages without a copy), creates
a tiny checkpoint, trains with --log_steps 10, and prints the wall time and the first and last accuracies.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import soundfile

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
SHORTEST_S, LONGEST_S = 0.5, 5.0
SETTINGS = {
    "log_steps": 10,
    "max_steps": 150,
    "batch_size": 8,
    "grad_accum": 1,
    "lr": 3e-3,
    "lora_dropout": 0.0,
    "seed": 0,
}


def spoken_prompts(sounds: Path, transcripts: Path) -> list[dict[str, str]]:
    """Return manifest lines of the spoken prompts of a usable length, in the order of the transcripts.

    Args:
        sounds: Folder of the recordings.
        transcripts: Compressed text file with lines of `name: text`.
    """
    samples = []
    lines = gzip.decompress(transcripts.read_bytes()).decode().splitlines()
    for line in lines:
        name, colon, text = line.partition(": ")
        audio = sounds / f"{name}.wav"
        is_speech = (
            colon and not line.startswith(";") and not set("[]<>()") & set(text)
        )  # brackets mark tones and silence
        if is_speech and audio.is_file() and SHORTEST_S <= soundfile.info(audio).duration <= LONGEST_S:
            samples.append({"id": name, "audio": str(audio), "text": text.strip()})
    return samples


def write_manifest(path: Path, samples: list[dict[str, str]]) -> None:
    """Write samples as JSON Lines.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     manifest = Path(folder) / "train.jsonl"
        ...     write_manifest(manifest, [{"id": "hello", "audio": "hello.wav", "text": "Hello"}])
        ...     print(manifest.read_text(encoding="utf-8").strip())
        {"id": "hello", "audio": "hello.wav", "text": "Hello"}
    """
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")


def run(*command: str | Path) -> None:
    """Run a command of higgs-audio-trainer, and stop if the command fails."""
    subprocess.run([sys.executable, "-m", "higgs_audio_trainer", *map(str, command)], check=True)


def report(log: Path, seconds: float) -> None:
    """Print wall time, first and last accuracies, and the number of events."""
    events = [json.loads(line) for line in log.read_bytes().splitlines()]
    steps = [event for event in events if event["event"] == "train_step"]
    print(f"\nwall time {seconds:.1f} s, {len(events)} events in {log}")
    for name, event in (("first", steps[0]), ("last", steps[-1])):
        codebooks = " ".join(f"{accuracy:.3f}" for accuracy in event["audio_accuracy_per_codebook"])
        text = "" if event["text_accuracy"] is None else f"text {event['text_accuracy']:.3f}, "  # masked in TTS 3
        print(f"{name} step {event['step']}: {text}codebooks {codebooks}")


def main() -> None:
    """Write the manifest and the checkpoint, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for all results; must not exist")
    parser.add_argument("--family", default="higgs-audio-v2", help="family of the tiny checkpoint [%(default)s]")
    parser.add_argument(
        "--pair_references", action="store_true", help="give each prompt another one as the reference of its voice"
    )
    parser.add_argument("--samples", type=int, default=240, help="number of prompts [%(default)s]")
    parser.add_argument("--sounds", type=Path, default=SOUNDS, help="folder of the recordings")
    parser.add_argument("--transcripts", type=Path, default=TRANSCRIPTS, help="texts of the recordings")
    given, flags = parser.parse_known_args()
    if not given.sounds.is_dir() or not given.transcripts.is_file():
        parser.error(f"expected the recordings in {given.sounds} and {given.transcripts}; see --help for the packages")
    prompts = spoken_prompts(given.sounds, given.transcripts)
    if len(prompts) < given.samples:
        parser.error(f"expected at least {given.samples} prompts, got {len(prompts)}")
    given.out.mkdir(parents=True)
    manifest = given.out / "train.jsonl"
    speaker = {"speaker": given.sounds.name}
    write_manifest(manifest, [prompt | speaker for prompt in prompts[: given.samples]])
    if given.pair_references:
        manifest = given.out / "paired.jsonl"
        run("manifest", given.out / "train.jsonl", "-o", manifest, "--pair_references")
    run("tiny", "--family", given.family, given.out / "base")
    config = given.out / "train.yaml"  # flags of the command line override a config file
    config.write_text(
        json.dumps(SETTINGS | {"base_ckpt": f"{given.out}/base/model", "audio_tokenizer": f"{given.out}/base/codec"})
    )
    started = time.monotonic()
    run("--config", config, "--train_manifest", manifest, "--output_dir", given.out / "run", *flags)
    report(given.out / "run/events/rank00000-attempt000.jsonl", time.monotonic() - started)


if __name__ == "__main__":
    main()
