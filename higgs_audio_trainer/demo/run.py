"""Run of the demo: a tiny model learns the bundled clips, and the log shows the predictions."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.demo.faults import FAULTS, PlantedFault
from higgs_audio_trainer.demo.tiny import write_tiny
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.families.known import DEFAULT_FAMILY, FAMILIES
from higgs_audio_trainer.recording.decoder_process import FOLDER
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties
from higgs_audio_trainer.training.signals import StopReason
from sinks import MemorySink

CLIPS = Path(__file__).parent / "clips"
_MARKER = ".made-by-the-demo.json"  # marks folders of a demo, which a later demo may replace
_BASE, _CLIPS, _RUN, _CONFIG = "base", "clips", "run", "demo.yaml"
FAULTS_LIST = "list"  # value of --fault that lists the faults
_ALL = "all"  # folder of the run that the summary suggests
NUM_CLIPS = 8
_SENTENCE = "The kettle is on, and the tea is almost ready."  # of the first clip
_ALIKE = 0.5  # share of equal codes
_MADE = (_BASE, _CLIPS, _RUN, _CONFIG, _ALL)


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """Result of the demo.

    Attributes:
        folder: Folder of the demo.
        fault: Name of the planted fault, or None.
        found: Diagnoses of the run as records, without `mask_audit`.
        steps: Number of optimizer steps.
        seconds: Duration of the demo.
        first: Record of the first logged step.
        last: Record of the last logged step.
        num_events: Number of events in the log.
        spoken: Records of the sentences that the model spoke last.
        stopped_by: Reason of an early stop, or None.
    """

    folder: Path
    fault: str | None
    found: tuple[dict[str, Any], ...]
    steps: int
    seconds: float
    first: dict[str, Any]
    last: dict[str, Any]
    num_events: int
    spoken: tuple[dict[str, Any], ...]
    stopped_by: StopReason | None

    def summary(self) -> list[str]:
        """Return lines with the result, the paths, and commands to try next."""
        folder = shlex.quote(str(self.folder))
        log = f"{folder}/{_RUN}/events/rank00000-attempt000.jsonl"
        config = f"higgs-audio-trainer --config {folder}/{_CONFIG}"
        if isinstance(self.stopped_by, Signals):
            return [
                f"Stopped at step {self.steps} by {self.stopped_by.name}.",
                f"Adapter:   {folder}/{_RUN}/checkpoint-{self.steps}",
                f"Log:       {log}",
                f"Continue:  {config} --output_dir {folder}/{_RUN} --resume",
            ]
        if self.fault is not None:
            return [
                _planted(self.fault, self.found),
                f"Check again:  higgs-audio-trainer diagnose {folder}/{_RUN}",
                f"Other faults: higgs-audio-trainer demo --fault {FAULTS_LIST}",
            ]
        before, after = (record["audio_accuracy_per_codebook"][0] for record in (self.first, self.last))
        return [
            (
                f"Learned in {self.steps} steps and {self.seconds:.0f} s: accuracy of codebook 0 from {before:.0%} to "
                f"{after:.0%}, loss from {self.first['loss']:.2f} to {self.last['loss']:.2f}."
            ),
            *_heard(folder, self.spoken),
            f"Adapter:       {folder}/{_RUN}",
            f"Log:           {log} ({self.num_events} events)",
            f"All codebooks: {config} --output_dir {folder}/{_ALL} --log_codebooks all --log_samples 1 --max_steps 20",
            f"Continue:      {config} --output_dir {folder}/{_RUN} --resume --max_steps {2 * self.steps}",
            f"Read the log:  higgs-audio-trainer show --summary {folder}/{_RUN}",
            f'Speak:         higgs-audio-trainer say {folder}/{_RUN} "{_SENTENCE}" -o hello.wav',
        ]


def _heard(folder: str, spoken: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line about what the model said by itself, without the codes of a recording before each frame."""
    if not spoken:
        return []
    alike = sum(event["agreement"][0] > _ALIKE for event in spoken)
    stopped = sum(event["stopped"] for event in spoken)
    most = f"{alike} of {len(spoken)} sentences as recorded in most frames of codebook 0"
    return [f"Spoken: {most}, {stopped} ended by the model itself. Listen: {folder}/{_RUN}/{FOLDER}"]


def _planted(fault: str, found: Sequence[dict[str, Any]]) -> str:
    """Return a line with the step at which the planted fault was found, and the other findings.

    Example:
        >>> found = [{"code": "no_stop_target", "step": 1}, {"code": "plateau", "step": 60}]
        >>> _planted("stop_masked", found)
        'Planted: stop_masked, found at step 1 by no_stop_target. Also found: plateau.'
    """
    codes = tuple(dict.fromkeys(code for code in (FAULTS[fault].found_by, FAULTS[fault].heard_by) if code))
    steps = {code: step for code in codes if (step := _first_step(code, found)) is not None}
    result = " and ".join(f"at step {step} by {code}" for code, step in steps.items())
    result = f"found {result}" if result else f"not found by {codes[0]}"
    others = sorted({event["code"] for event in found} - set(codes))
    return f"Planted: {fault}, {result}." + (f" Also found: {', '.join(others)}." if others else "")


def _first_step(code: str, found: Sequence[dict[str, Any]]) -> int | None:
    return next((event["step"] for event in found if event["code"] == code), None)


def run_demo(
    folder: Path,
    *,
    max_steps: int,
    seed: int,
    log_steps: int,
    more: Sequence[tuple[str, Any]] = (),
    fault: str | None = None,
    family: str = DEFAULT_FAMILY,
) -> DemoOutcome:
    """Train the tiny model on the bundled clips.

    Args:
        folder: Folder of all files. Files of an earlier demo are replaced.
        max_steps: Number of optimizer steps.
        seed: Seed of model and training.
        log_steps: Interval of the log, as in `TrainSettings`.
        more: Other settings.
        fault: Name of a mistake to plant, from `FAULTS`.
        family: Name of the family of the model.

    Raises:
        UserError: The folder holds files that no demo made.
    """
    started = time.monotonic()
    quiet_third_parties()
    _clear(folder)
    planted = PlantedFault("", "") if fault is None else FAULTS[fault]
    chosen = {"max_steps": max_steps, "log_steps": log_steps, "save_steps": max_steps, "seed": seed, **dict(more)}
    options = _lay_out(folder, planted, chosen, family)
    memory = MemorySink()
    settings = TrainSettings(**options, output_dir=str(folder / _RUN))
    with planted.planted():
        result = run_training(settings, more_sinks=[("summary", memory)])
    steps = memory.named("train_step")
    seconds = time.monotonic() - started
    found = tuple(event for event in memory.named("diagnosis") if event["code"] != "mask_audit")
    spoken = memory.named("generation_sample")
    return DemoOutcome(
        folder=folder,
        fault=fault,
        found=found,
        steps=result.step,
        seconds=seconds,
        first=steps[0],
        last=steps[-1],
        num_events=len(memory.records),
        spoken=tuple(event for event in spoken if event["step"] == spoken[-1]["step"]),
        stopped_by=result.stopped_by,
    )


def _lay_out(folder: Path, planted: PlantedFault, chosen: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Write checkpoint, codec, clips and settings, and return the settings."""
    model_dir, codec_dir = write_tiny(folder / _BASE, family=family, seed=chosen["seed"])
    shutil.copytree(CLIPS, folder / _CLIPS)
    planted.files(folder / _BASE, folder / _CLIPS)
    manifest = str(folder / _CLIPS / "manifest.jsonl")
    options = {
        "base_ckpt": str(model_dir),
        "audio_tokenizer": str(codec_dir),
        "train_manifest": manifest,
        **({"eval_manifest": manifest} if planted.evaluates else {}),
        "codes_dir": str(folder / _BASE / "codes"),
        "batch_size": 8,
        "grad_accum": 1,
        "lora_dropout": 0.0,  # the model memorizes eight clips, so well that it speaks them by itself
        "lora_r": 32,
        "lora_alpha": 64,
        **FAMILIES[family].demo_settings,
        "say_steps": chosen["max_steps"],
        "say_samples": NUM_CLIPS,
        **chosen,
        **planted.settings,
    }
    lines = (f"{name}: {json.dumps(value)}\n" for name, value in options.items())
    (folder / _CONFIG).write_text("# Settings of the demo, for --config.\n" + "".join(lines), encoding="utf-8")
    return options


def _clear(folder: Path) -> None:
    """Create the folder, or remove the files of an earlier demo and no others."""
    marker = folder / _MARKER
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir: expected a folder, got a file at {folder}. Choose another path.")
    if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
        raise UserError(
            f"--output_dir: expected a new or empty folder, or one that a demo made, got {folder} with "
            "other files. Choose another folder: higgs-audio-trainer demo --output_dir DIR"
        )
    if marker.is_file():
        for name in _MADE:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"made": _MADE}) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir: {folder}: {error.strerror}. Choose a writable folder.") from error
