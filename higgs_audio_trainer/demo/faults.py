"""Mistakes to plant in the demo: each of them cost somebody days, and shows in the log at once.

A mistake is made where it is made in practice: in the files that a training is given, in its settings, or in one
function, which another takes the place of for as long as the run lasts.
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
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from higgs_audio_trainer.data import batch
from higgs_audio_trainer.data.batch import Example
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.training import model, trainer
from higgs_audio_trainer.training.base_checkpoint import RANDOM_WEIGHTS

SHUFFLED_CODEBOOK = 3
_SILENT_FRAMES = 60
_SAMPLES_A_FRAME, _RATE_HZ = 960, 24_000

Substitute = Callable[[Any], Any]  # makes of a function what takes its place


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake.

    Attributes:
        mistake: what it is, in one line.
        found_by: the code of the diagnosis that finds it.
        functions: what takes the place of which function: the module or class, its name there, and the substitute.
        settings: changes of the demo's settings.
        files: changes what the demo has laid out: given the folder of the base checkpoint and that of the clips.
    """

    mistake: str
    found_by: str
    functions: tuple[tuple[Any, str, Substitute], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Callable[[Path, Path], None] = lambda _base, _clips: None

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have the substitutes in place."""
        with ExitStack() as stack:
            for owner, name, substitute in self.functions:
                original = getattr(owner, name)
                stack.callback(setattr, owner, name, original)
                setattr(owner, name, substitute(original))
            yield


# The model


def _same_index(rows_of: Callable[..., Any]) -> Callable[..., Any]:
    def rows(self: nn.Module, hidden_BSH: Tensor, *args: Tensor) -> Any:
        rows, nll = rows_of(self, hidden_BSH.roll(-1, dims=1), *args)  # what it takes at p - 1 is that of p
        rows.row = rows.position
        return rows, nll

    return rows


def _without_stops(rows_of: Callable[..., Any]) -> Callable[..., Any]:
    def rows(self: Any, *args: Tensor) -> Any:
        rows, nll_K = rows_of(self, *args)
        stop = self.config.audio_stream_eos_id
        logits = rows.logits.float().permute(1, 2, 0)  # [K, C, M]
        stops = F.cross_entropy(logits, rows.labels, reduction="none", ignore_index=IGNORE_INDEX)
        stops_K = (stops * (rows.labels == stop)).sum(-1)
        return rows, nll_K - stops_K + stops_K.detach()  # the loss that is told is the same; no gradient is

    return rows


def _frozen(add_lora: Callable[..., Any]) -> Callable[..., Any]:
    def add(*args: Any, **kwargs: Any) -> Any:
        peft_model = add_lora(*args, **kwargs)
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


# The labels


def _relabelled(change: Callable[[Example], Example]) -> Substitute:
    def substitute(build_example: Callable[..., Example]) -> Callable[..., Example]:
        return lambda *args: change(build_example(*args))

    return substitute


def _shifted(offset: int) -> Callable[[Example], Example]:
    def shift(labels: Any) -> Any:
        shifted = np.roll(labels, -offset, axis=0)
        shifted[-1 if offset > 0 else 0] = IGNORE_INDEX  # what came round from the other end
        return shifted

    return lambda example: replace(
        example, labels=shift(example.labels), audio_labels_FK=shift(example.audio_labels_FK)
    )


def _stops_masked(example: Example) -> Example:
    stop = example.audio_ids_FK.max(initial=0)  # the stream EOS is the highest id, and ends each clip
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
    def lay_out(codes_KT: Any, *, bos: int, eos: int) -> Any:
        num_codebooks, num_frames = codes_KT.shape
        stream_FK = np.full((num_stream_frames(num_frames, num_codebooks), num_codebooks), eos, dtype=np.int64)
        stream_FK[0], stream_FK[1 : 1 + num_frames] = bos, codes_KT.T
        return stream_FK

    return lay_out


def _labels_not_delayed(_delayed_labels: Callable[..., Any]) -> Callable[..., Any]:
    def label(stream_FK: Any, num_frames: int) -> Any:
        labels_FK = np.full_like(stream_FK, IGNORE_INDEX)
        labels_FK[1 : num_frames + 2] = stream_FK[1 : num_frames + 2]
        return labels_FK

    return label


def _shuffled(load_codes: Callable[..., Any]) -> Callable[..., Any]:
    times = count()

    def load(*args: Any, **kwargs: Any) -> Any:
        codes_KT = load_codes(*args, **kwargs).copy()
        np.random.default_rng(next(times)).shuffle(codes_KT[min(SHUFFLED_CODEBOOK, len(codes_KT) - 1)])
        return codes_KT

    return load


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
    spoken = [
        entry | {"ref_audio": other["audio"], "ref_text": other["text"]}
        for entry, other in zip(entries, [*entries[1:], entries[0]], strict=True)
    ]
    _write(clips, spoken)


def _silent(_base: Path, clips: Path) -> None:
    entries = _entries(clips)
    soundfile.write(clips / "silence.wav", np.zeros(_SILENT_FRAMES * _SAMPLES_A_FRAME), _RATE_HZ)
    _write(clips, [entries[0] | {"audio": "silence.wav"}, *entries[1:]])


def _nan(base: Path, _clips: Path) -> None:
    path = base / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def _untrained(base: Path, _clips: Path) -> None:
    path = base / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {RANDOM_WEIGHTS: False}
    path.write_text(json.dumps(config), encoding="utf-8")


_ROWS = (model.HiggsAudioForTraining, "_text_rows"), (model.HiggsAudioForTraining, "_audio_rows")


def _labels(change: Callable[[Example], Example]) -> tuple[tuple[Any, str, Substitute], ...]:
    return ((batch, "build_example", _relabelled(change)),)


FAULTS: Mapping[str, Fault] = {
    "same_index": Fault(
        "logits and labels are compared at the same index: the model learns to copy its input",
        "shifted_alignment",
        functions=tuple((*place, _same_index) for place in _ROWS),
    ),
    "shifted_plus_1": Fault(
        "labels were shifted beforehand, and the loss shifts them again",
        "shifted_alignment",
        functions=_labels(_shifted(1)),
    ),
    "shifted_minus_1": Fault(
        "labels were shifted the wrong way: each row is to say the token that it is given",
        "shifted_alignment",
        functions=_labels(_shifted(-1)),
    ),
    "stop_masked": Fault(
        "every stream EOS is masked, as the labels of the stock processor have it: the voice never ends",
        "no_stop_target",
        functions=_labels(_stops_masked),
    ),
    "stop_unlearned": Fault(
        "stop tokens are labels, and nothing is learned from them",
        "stop_never_predicted",
        functions=((*_ROWS[1], _without_stops),),
    ),
    "prompt_supervised": Fault(
        "the prompt is learned as if it were the answer", "prompt_supervised", functions=_labels(_prompt_supervised)
    ),
    "reference_supervised": Fault(
        "reference speech is learned, and not only heard",
        "prompt_supervised",
        functions=_labels(_reference_supervised),
        files=_with_references,
    ),
    "no_delay": Fault(
        "codebooks are not delayed: all of them begin at the same frame",
        "delay_missing",
        functions=((batch, "delay_codes", _not_delayed), (batch, "delayed_labels", _labels_not_delayed)),
    ),
    "codebook_shuffled": Fault(
        f"the codes of codebook {SHUFFLED_CODEBOOK} are in another order each time",
        "dead_codebook",
        functions=((batch, "load_codes", _shuffled),),
    ),
    "text_masked": Fault("every text label is masked", "masked_out", functions=_labels(_text_masked)),
    "text_denominator": Fault(
        "the loss of every codebook is divided by the number of text targets",
        "wrong_denominator",
        functions=((trainer, "count_targets", _by_text_targets),),
    ),
    "lr_x1000": Fault("the learning rate is a thousand times too high", "non_finite", settings={"lr": 10.0}),
    "frozen_adapters": Fault(
        "the adapters get no gradient: nothing is trained", "plateau", functions=((model, "add_lora", _frozen),)
    ),
    "duplicated_data": Fault("each sample is in the manifest twice", "duplicate_samples", files=_twice),
    "untrained_base": Fault(
        "the base checkpoint was never trained: it begins at chance", "chance_level", files=_untrained
    ),
    "nan_weights": Fault("one weight of the base checkpoint is NaN", "non_finite", files=_nan),
    "silent_clip": Fault("one clip is silence", "constant_sample", files=_silent),
}
