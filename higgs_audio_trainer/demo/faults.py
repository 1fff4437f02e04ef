"""Common training mistakes for the demo, each with the diagnosis that finds the mistake.

A mistake is planted where users make the mistake: in the input files, in the settings, or in a function, which a
substitute replaces for the duration of the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from higgs_audio_trainer.config import RANDOM_WEIGHTS
from higgs_audio_trainer.data import batch
from higgs_audio_trainer.data.batch import Example
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.training_forward import TrainingForward
from higgs_audio_trainer.training import model, trainer

SHUFFLED_CODEBOOK = 3
_SILENT_FRAMES, _SAMPLES_A_FRAME, _RATE_HZ = 60, 960, 24_000
_KEPT = 10  # a tenth of a clip
_HEARD = 5  # a fifth of a clip
_SPEAKING = {"say_steps": 10, "say_samples": 8}  # a fault of the voice takes two generations to see

Substitute = Callable[[Any], Any]  # returns the substitute of a function


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """A training mistake that the demo plants on purpose.

    Attributes:
        mistake: Description in a line.
        found_by: Code of the diagnosis that finds the mistake.
        heard_by: Code of the diagnosis that finds the mistake too, in the speech of the trained model. None if the
            mistake is not heard.
        functions: Functions to replace, each as the module or class, the function's name, and the substitute.
        settings: Changes of the demo's settings.
        files: Function that changes the demo's files, given the folders of the base checkpoint and of the clips.
        not_for: Reason by the name of each family that cannot have the mistake.
        evaluates: Whether the mistake shows in evaluations, which are then made of the training samples.
    """

    mistake: str
    found_by: str
    functions: tuple[tuple[Any, str, Substitute], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Callable[[Path, Path], None] = lambda _base, _clips: None
    heard_by: str | None = None
    not_for: Mapping[str, str] = field(default_factory=dict)
    evaluates: bool = False

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Replace the functions by their substitutes inside the block.

        Example:
            >>> from types import SimpleNamespace
            >>> module = SimpleNamespace(row_of=lambda position: position - 1)
            >>> fault = PlantedFault("not shifted", "", ((module, "row_of", lambda _row_of: abs),))
            >>> with fault.planted():
            ...     module.row_of(5)
            5
        """
        with ExitStack() as stack:
            for owner, name, substitute in self.functions:
                original = getattr(owner, name)
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, substitute(original))
            yield


# The model


def _same_index(rows_of: Callable[..., Any]) -> Callable[..., Any]:
    def rows(self: nn.Module, hidden_NH: Tensor, labels: Tensor, *args: Any) -> Any:
        places_N = args[-1]["places"]
        number = torch.zeros(labels.numel(), dtype=torch.long, device=places_N.device)
        number[places_N] = torch.arange(len(places_N), device=places_N.device)
        following_N = number[(places_N + 1).clamp(max=labels.numel() - 1)]
        rows, nll = rows_of(self, hidden_NH[following_N], labels, *args)  # row p - 1 takes the state of p
        rows.row = rows.position
        return rows, nll

    return rows


def _without_stops(rows_of: Callable[..., Any]) -> Callable[..., Any]:
    def rows(self: Any, *args: Tensor) -> Any:
        rows, nll_K = rows_of(self, *args)
        stop = self.audio_size - 1  # the stream EOS
        logits = rows.logits.float().permute(1, 2, 0)  # [K, C, M]
        stops = nn.functional.cross_entropy(logits, rows.labels, reduction="none", ignore_index=IGNORE_INDEX)
        stops_K = (stops * (rows.labels == stop)).sum(-1)
        return rows, nll_K - stops_K + stops_K.detach()  # the reported loss is the same, without the gradient

    return rows


def _frozen(add_adapters: Callable[..., Any]) -> Callable[..., Any]:
    def add(*args: Any, **kwargs: Any) -> Any:
        peft_model = add_adapters(*args, **kwargs)
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.zeros_like)
        return peft_model

    return add


def _by_text_targets(count_targets: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def counted(*args: Tensor) -> Tensor:
        targets = count_targets(*args)
        return targets[:1].expand_as(targets).clone()

    return counted


# The schedule and the evaluation


class _SteppedTwice(LambdaLR):
    def step(self, *args: Any) -> None:
        super().step(*args)
        super().step(*args)


def _stepped_twice(create_scheduler: Callable[..., Any]) -> Callable[..., Any]:
    def create(*args: Any, **kwargs: Any) -> Any:
        scheduler = create_scheduler(*args, **kwargs)
        scheduler.__class__ = _SteppedTwice
        return scheduler

    return create


def _of_a_quarter(create_scheduler: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, num_training_steps, *args: create_scheduler(self, num_training_steps // 4, *args)


def _of_the_base(evaluation_loop: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.model.disable_adapter():
            return evaluation_loop(self, *args, **kwargs)

    return evaluate


# The labels


def _labels(change: Callable[[Example], Example]) -> tuple[tuple[Any, str, Substitute], ...]:
    def substitute(build_example: Callable[..., Example]) -> Callable[..., Example]:
        return lambda *args: change(build_example(*args))

    return ((batch, "build_example", substitute),)


def _shifted(offset: int) -> Callable[[Example], Example]:
    def shift(labels: Any) -> Any:
        shifted = np.roll(labels, -offset, axis=0)
        shifted[-1 if offset > 0 else 0] = IGNORE_INDEX  # rolled in from the other end
        return shifted

    return lambda example: replace(
        example, labels=shift(example.labels), audio_labels_FK=shift(example.audio_labels_FK)
    )


def _stops_masked(example: Example) -> Example:
    stop = example.audio_ids_FK.max(initial=0)  # the stream EOS is the highest id and ends each clip
    labels = example.audio_labels_FK
    return replace(example, audio_labels_FK=np.where(labels == stop, IGNORE_INDEX, labels))


def _prompt_supervised(example: Example) -> Example:
    is_prompt = example.regions == Region.PROMPT
    return replace(example, labels=np.where(is_prompt, example.input_ids, example.labels))


def _reference_supervised(example: Example) -> Example:
    is_clip = np.isin(example.regions, (Region.REFERENCE, Region.SPEECH))
    is_reference = (example.regions[is_clip] == Region.REFERENCE)[:, None]
    return replace(example, audio_labels_FK=np.where(is_reference, example.audio_ids_FK, example.audio_labels_FK))


def _text_masked(example: Example) -> Example:
    return replace(example, labels=np.full_like(example.labels, IGNORE_INDEX))


# The codes


def _not_delayed(_delay_codes: Callable[..., Any]) -> Callable[..., Any]:
    def lay_out(codes_KT: Any, *, bos: int, eos: int, bos_frames: int) -> Any:
        num_codebooks, num_frames = codes_KT.shape
        num_stream = num_stream_frames(num_frames, num_codebooks, bos_frames)
        stream_FK = np.full((num_stream, num_codebooks), eos, dtype=np.int64)
        stream_FK[:bos_frames], stream_FK[bos_frames : bos_frames + num_frames] = bos, codes_KT.T
        return stream_FK

    return lay_out


def _labels_not_delayed(_delayed_labels: Callable[..., Any]) -> Callable[..., Any]:
    def label(stream_FK: Any, num_frames: int, *, bos_frames: int) -> Any:
        labels_FK = np.full_like(stream_FK, IGNORE_INDEX)
        supervised = slice(bos_frames, bos_frames + num_frames + 1)
        labels_FK[supervised] = stream_FK[supervised]
        return labels_FK

    return label


def _shuffled(build_example: Callable[..., Any]) -> Callable[..., Any]:
    times = count()

    def build(sample: Any, clips: Any, ids: Any) -> Any:
        shuffled = [codes_KT.copy() for codes_KT in clips]
        for codes_KT in shuffled:
            np.random.default_rng(next(times)).shuffle(codes_KT[min(SHUFFLED_CODEBOOK, len(codes_KT) - 1)])
        return build_example(sample, shuffled, ids)

    return build


# The files


def _entries(clips: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (clips / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def _write(clips: Path, entries: list[dict[str, Any]]) -> None:
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (clips / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


def _twice(_base: Path, clips: Path) -> None:
    entries = _entries(clips)
    _write(clips, [*entries, *(entry | {"id": f"{entry['id']}-again"} for entry in entries)])


def _with_references(_base: Path, clips: Path) -> None:
    entries = _entries(clips)
    pairs = zip(entries, [*entries[1:], entries[0]], strict=True)
    _write(clips, [entry | {"ref_audio": other["audio"], "ref_text": other["text"]} for entry, other in pairs])


def _silent(_base: Path, clips: Path) -> None:
    entries = _entries(clips)
    soundfile.write(clips / "silence.wav", np.zeros(_SILENT_FRAMES * _SAMPLES_A_FRAME), _RATE_HZ)
    _write(clips, [entries[0] | {"audio": "silence.wav"}, *entries[1:]])


def _cut(_base: Path, clips: Path) -> None:
    for entry in _entries(clips):
        samples, rate = soundfile.read(clips / entry["audio"])
        soundfile.write(clips / entry["audio"], samples[: len(samples) // _KEPT], rate)


def _zeroed(_base: Path, clips: Path) -> None:
    for entry in _entries(clips):
        samples, rate = soundfile.read(clips / entry["audio"])
        samples[len(samples) // _HEARD :] = 0
        soundfile.write(clips / entry["audio"], samples, rate)


def _muted(base: Path, _clips: Path) -> None:
    path = base / "codec" / "model.safetensors"
    weights = load_file(path)
    silent = {name: torch.zeros_like(w) if name.startswith("decoder.") else w for name, w in weights.items()}
    save_file(silent, path, metadata={"format": "pt"})


def _nan(base: Path, _clips: Path) -> None:
    path = base / "model" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def _untrained(base: Path, _clips: Path) -> None:
    path = base / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {RANDOM_WEIGHTS: False}
    path.write_text(json.dumps(config), encoding="utf-8")


_ROWS = (TrainingForward, "_text_rows"), (TrainingForward, "_audio_rows")


FAULTS: Mapping[str, PlantedFault] = {
    "same_index": PlantedFault(
        "logits and labels are compared at the same index: the model learns to copy its input",
        "shifted_alignment",
        functions=tuple((*place, _same_index) for place in _ROWS),
    ),
    "shifted_plus_1": PlantedFault(
        "the data shifts the labels, and the loss shifts them again",
        "shifted_alignment",
        functions=_labels(_shifted(1)),
    ),
    "shifted_minus_1": PlantedFault(
        "labels are shifted in the wrong direction: each row learns to predict its own input",
        "shifted_alignment",
        functions=_labels(_shifted(-1)),
    ),
    "stop_masked": PlantedFault(
        "every stream EOS is masked, as in the labels of the stock processor: the voice never ends",
        "no_stop_target",
        functions=_labels(_stops_masked),
        settings=_SPEAKING,
        heard_by="never_stops",
    ),
    "stop_unlearned": PlantedFault(
        "stop tokens are labels, but give no gradient",
        "stop_never_predicted",
        functions=((*_ROWS[1], _without_stops),),
    ),
    "prompt_supervised": PlantedFault(
        "the prompt is supervised like the answer", "prompt_supervised", functions=_labels(_prompt_supervised)
    ),
    "reference_supervised": PlantedFault(
        "reference speech is supervised like the answer",
        "prompt_supervised",
        functions=_labels(_reference_supervised),
        files=_with_references,
    ),
    "no_delay": PlantedFault(
        "codebooks are not delayed: all codebooks begin at the same frame",
        "delay_missing",
        functions=((batch, "delay_codes", _not_delayed), (batch, "delayed_labels", _labels_not_delayed)),
    ),
    "codebook_shuffled": PlantedFault(
        f"the codes of codebook {SHUFFLED_CODEBOOK} are in another order each time",
        "dead_codebook",
        functions=((batch, "build_example", _shuffled),),
    ),
    "text_masked": PlantedFault(
        "every text label is masked",
        "masked_out",
        functions=_labels(_text_masked),
        not_for={"higgs-tts-3": "its texts are masked on purpose, unless --text_loss_weight is above 0"},
    ),
    "text_denominator": PlantedFault(
        "the loss of every codebook is divided by the number of text targets",
        "wrong_denominator",
        functions=((trainer, "count_targets", _by_text_targets),),
    ),
    "lr_x1000": PlantedFault(
        "the learning rate is a thousand times too high",
        "non_finite",
        settings={"lr": 10.0},
        not_for={"higgs-tts-3": "its last norm bounds the logits of its frozen heads, so no loss explodes"},
    ),
    "frozen_adapters": PlantedFault(
        "the adapters get no gradient: the model learns nothing",
        "plateau",
        functions=((model, "add_adapters", _frozen),),
    ),
    "stepped_twice": PlantedFault(
        "the schedule is stepped twice a step, as once for each of two processes",
        "schedule_mismatch",
        functions=((Trainer, "create_scheduler", _stepped_twice),),
        settings={"log_steps": 5},
    ),
    "short_schedule": PlantedFault(
        "the schedule is made for a quarter of the steps",
        "rate_exhausted",
        functions=((Trainer, "create_scheduler", _of_a_quarter),),
        settings={"log_steps": 10},
    ),
    "base_evaluated": PlantedFault(
        "the base model is evaluated, without its adapters",
        "flat_evaluation",
        functions=((trainer.HiggsAudioTrainer, "evaluation_loop", _of_the_base),),
        settings={"val_steps": 4},
        evaluates=True,
    ),
    "duplicated_data": PlantedFault("each sample is in the manifest twice", "duplicate_samples", files=_twice),
    "untrained_base": PlantedFault(
        "the base checkpoint was never trained: the loss starts at chance level", "chance_level", files=_untrained
    ),
    "nan_weights": PlantedFault("one weight of the base checkpoint is NaN", "non_finite", files=_nan),
    "silent_clip": PlantedFault("one clip is silence", "constant_sample", files=_silent),
    "muted_codec": PlantedFault(
        "the weights of the codec's decoder are 0: the codes are right, and every speech is silent",
        "silent_voice",
        settings=_SPEAKING,
        files=_muted,
        heard_by="silent_voice",
    ),
    "zeroed_clips": PlantedFault(
        "all but the first fifth of each clip is digital silence",
        "stuck",
        settings=_SPEAKING,
        files=_zeroed,
        heard_by="stuck",
    ),
    "cut_clips": PlantedFault(
        "only the first tenth of each clip is left of its text",
        "too_short",
        settings=_SPEAKING,
        files=_cut,
        heard_by="too_short",
    ),
}
