"""Settings that a checkpoint fixes for a resumed run, and settings that a resumed run may change.

Each checkpoint holds the settings of the run in a file. A resumed run compares the settings with the file. Settings of
another model are refused. Other changes are reported and recorded in `run_start`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers
from transformers import TrainerState, TrainingArguments

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.diagnoses.resume import changes_in_words
from higgs_audio_trainer.documents import read_json, shown
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.output_dir.checkpoints import ADAPTER_CONFIG, SETTINGS_FILE, backend_of
from higgs_audio_trainer.training.arguments import dtype_of
from higgs_audio_trainer.training.sharding import fsdp_version, is_fsdp_asked

_TRAINER_STATE = "trainer_state.json"
_LONGEST = 1_000  # characters of a value in a message
_CONTROL = "TrainerControl"  # state of the trainer itself among the states of callbacks
#: Settings that another value would turn into another model, with the field of the adapter's own configuration.
_FIXED = {
    "full_finetune": "",
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_targets": "target_modules",
    **dict.fromkeys(("train", "freeze", "lora_layers", "lora_bias", "use_rslora", "use_dora"), ""),
    **dict.fromkeys(("init_lora_weights", "modules_to_save", "lora_fields", "base_ckpt", "optim"), ""),
}
#: Settings of `_FIXED` that the first checkpoints lack, with the value of their runs.
_METHOD: dict[str, Any] = {
    "full_finetune": False,
    "train": "all",
    "freeze": "none",
    "lora_layers": "all",
    "lora_bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": "true",
    "modules_to_save": [],
    "lora_fields": {},
}
#: Types of fields of a trainer_state.json that transformers takes without a check. Any may be null.
_STATE_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("global_step", "max_steps", "num_train_epochs"), ((int,), "an integer")),
    **dict.fromkeys(("epoch", "total_flos", "num_input_tokens_seen"), ((int, float), "a number")),
    "log_history": ((list,), "a list"),
    "stateful_callbacks": ((dict,), "an object"),
}
_OF_ARGUMENTS = (
    *(
        "optim",
        "optim_args",
        "optim_target_modules",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "max_grad_norm",
        "data_seed",
    ),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "train_sampling_strategy", "dataloader_drop_last"),
)
_OF_SETTINGS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lr", "wd", "warmup", "text_loss_weight", "grad_accum", "seed"),
    *("max_batch_seconds", "load_in_4bit", "load_in_8bit"),
)


def settings_of(settings: TrainSettings, arguments: TrainingArguments, *, base: str | None) -> dict[str, Any]:
    """Return the settings that a checkpoint of a run fixes, before data and model are loaded.

    Args:
        settings: Settings of the run.
        arguments: Arguments of the run.
        base: Fingerprint of the base checkpoint's weights. None if unknown.
    """
    found = {name: getattr(settings, name) for name in _OF_SETTINGS}
    found |= {name: getattr(arguments, name, None) for name in _OF_ARGUMENTS}
    found |= {
        **{name: getattr(settings, name) or default for name, default in _METHOD.items()},
        "lora_layers": list(settings.layers() or ()) or "all",
        "train": _names(settings.train) or "all",
        "freeze": _names(settings.freeze) or "none",
        "modules_to_save": _names(settings.modules_to_save),
        "lora_fields": dict(settings.lora_fields),
        "lora_targets": sorted(settings.targets()),
        "base_ckpt": base,
        "batch_size": arguments.per_device_train_batch_size,
        "world_size": arguments.world_size,
        "mixed_precision": arguments.mixed_precision,
        "fsdp_version": fsdp_version(arguments),
        "dtype": str(dtype_of(settings)).removeprefix("torch."),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return as_json


def _names(text: str | None) -> list[str]:
    return sorted({name for part in (text or "").split(",") if (name := part.strip())})


def samples_of(train: PreparedDataset, evaluation: PreparedDataset | None) -> dict[str, Any]:
    """Return the number and the fingerprint of the samples of each manifest that a run has."""
    found = {"train_manifest": _fingerprint(train)}
    return found | {"eval_manifest": _fingerprint(evaluation)} if evaluation is not None else found


def _fingerprint(samples: PreparedDataset) -> dict[str, Any]:
    return {"samples": len(samples), "fingerprint": samples.fingerprint[:16]}


def write_settings(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run into the folder of a checkpoint.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_file(checkpoint / SETTINGS_FILE) as file:
        file.write(json.dumps(settings, indent=1, sort_keys=True).encode() + b"\n")


def check_resumable(checkpoint: Path, settings: Mapping[str, Any], arguments: TrainingArguments) -> None:
    """Raise an error if a run cannot go on from a checkpoint as the same model.

    Args:
        checkpoint: Folder of the checkpoint.
        settings: Settings of the run that resumes, from `settings_of`.
        arguments: Arguments of that run.

    Raises:
        UserError: Another version of transformers, another backend or other settings made the checkpoint.
    """
    state = _read(checkpoint, _TRAINER_STATE)
    unknown = state.keys() - {item.name for item in fields(TrainerState)}
    if unknown:
        raise UserError(
            f"--resume: {checkpoint / _TRAINER_STATE}: expected the fields of transformers {transformers.__version__}, "
            f"got {', '.join(sorted(unknown))} too. Resume with the newer transformers that saved the checkpoint."
        )
    _check_types(checkpoint, state)
    theirs, ours = backend_of(checkpoint), _backend(arguments)
    if theirs != ours:
        raise UserError(
            f"--resume: expected a checkpoint of backend {ours}, got {checkpoint}, which {theirs} saved. Resume with "
            f"the backend {theirs}, or start anew in another --output_dir."
        )
    saved = _saved(checkpoint)
    before, now = saved.get("fsdp_version"), settings["fsdp_version"]
    if ours == "fsdp" and before is not None and before != now:
        raise UserError(
            f"--resume: expected FSDP{before}, which saved {checkpoint}, got FSDP{now}. Resume with --fsdp_config "
            f"'{{\"version\": {before}}}', or start anew in another --output_dir."
        )
    for name in _FIXED:
        before, now = saved.get(name), settings[name]
        if before is None or now is None or before == now:
            continue
        if name == "base_ckpt":
            raise UserError(
                f"--base_ckpt: expected the weights that {checkpoint.name} was trained on, got other weights. Name the "
                "base checkpoint of that run, or start anew in another --output_dir."
            )
        flag, wanted, got = "lora_config" if name == "lora_fields" else name, _in_words(before), _in_words(now)
        raise UserError(
            f"--{flag}: expected {wanted}, the value of {checkpoint.name}, to resume from it, got {got}. Start "
            "anew in another --output_dir for another value."
        )


def _check_types(checkpoint: Path, state: Mapping[str, Any]) -> None:
    for name, (kinds, expected) in _STATE_TYPES.items():
        if not isinstance(value := state.get(name), (*kinds, type(None))) or isinstance(value, bool):
            raise _damaged(checkpoint, _TRAINER_STATE, f"{name}: expected {expected}, got {shown(value)}")
    callbacks = state.get("stateful_callbacks") or {}
    if not isinstance(control := callbacks.get(_CONTROL), dict):  # transformers writes it, and needs it to save
        what = f"stateful_callbacks.{_CONTROL}: expected an object, got {shown(control)}"
        raise _damaged(checkpoint, _TRAINER_STATE, what)


def _in_words(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return ",".join(map(str, value)) or "none"
    return value if isinstance(value, str) and len(value) < _LONGEST else shown(value)


def changes_since(checkpoint: Path, settings: Mapping[str, Any], *, max_steps: int) -> dict[str, list[Any]]:
    """Return the settings that differ from the settings of a checkpoint, as [value then, value now].

    Args:
        checkpoint: Folder of the checkpoint. Settings that the checkpoint does not hold are left out.
        settings: Settings in force in the run that resumes.
        max_steps: Optimizer steps of the whole run now.
    """
    saved = _saved(checkpoint)
    found = {name: [saved[name], now] for name, now in settings.items() if name in saved and saved[name] != now}
    before = _read(checkpoint, _TRAINER_STATE).get("max_steps")
    if before and before != max_steps:
        found["max_steps"] = [before, max_steps]
    return found


def describe_changes(checkpoint: Path, changes: Mapping[str, list[Any]]) -> str:
    r"""Return one line about changed settings.

    Example:
        >>> describe_changes(Path("out/checkpoint-20"), {"lr": [0.005, 1e-05]})
        '--resume: changed since checkpoint-20: --lr: 0.005, now 1e-05'
    """
    return f"--resume: changed since {checkpoint.name}: {changes_in_words(changes)}"


def _backend(arguments: TrainingArguments) -> str:
    if arguments.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return "deepspeed"
    is_sharded = arguments.world_size > 1 or arguments.device.type != "cpu"  # a single process on a CPU shards nothing
    return "fsdp" if is_fsdp_asked(arguments) and is_sharded else "torch"


def _saved(checkpoint: Path) -> dict[str, Any]:
    """Return the settings in a checkpoint. A checkpoint without the file has the settings of the adapter alone."""
    adapter = _read(checkpoint, ADAPTER_CONFIG) if (checkpoint / ADAPTER_CONFIG).exists() else {}
    saved = _METHOD | {name: adapter[field] for name, field in _FIXED.items() if field in adapter}
    saved["lora_dropout"] = adapter.get("lora_dropout")
    targets = saved.get("lora_targets") or []
    if not isinstance(targets, (str, list)):
        raise _damaged(checkpoint, ADAPTER_CONFIG, f"target_modules: expected names, got {shown(targets)}")
    saved["lora_targets"] = sorted(map(str, [targets] if isinstance(targets, str) else targets))
    return saved | (_read(checkpoint, SETTINGS_FILE) if (checkpoint / SETTINGS_FILE).exists() else {})


def _read(checkpoint: Path, name: str) -> dict[str, Any]:
    try:
        content = read_json(checkpoint / name)
        if not isinstance(content, dict):
            raise ValueError("no object")  # noqa: TRY004, TRY301 - joins the errors of json.loads
    except OSError as error:
        raise UserError(f"--resume: {checkpoint / name}: {error.strerror}. Name another checkpoint.") from error
    except ValueError as error:
        raise _damaged(checkpoint, name, f"expected JSON, got {error}") from error
    return content


def _damaged(checkpoint: Path, name: str, what: str) -> UserError:
    return UserError(f"--resume: {checkpoint / name}: {what}. Name another checkpoint.")
