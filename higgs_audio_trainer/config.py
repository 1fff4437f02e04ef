"""Settings of a training run: types, checks, and the only list of the trainer's own flags.

Each field of `TrainSettings` is a flag, a key of the YAML file and an entry of `run_start`. The metadata of a field
holds the group and the text for `--help`, the limits, and the names of the same setting in Hugging Face's scripts. All
other fields of `transformers.TrainingArguments` go into `extra`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from higgs_audio_trainer.errors import UserError

DEFAULT_BASE_CKPT = "bosonai/higgs-audio-v2-generation-3B-base"
DEFAULT_AUDIO_TOKENIZER = "bosonai/higgs-audio-v2-tokenizer"
#: Names of the families of models, as in `families.known`, which commands name without a start of torch.
FAMILY_NAMES = ("higgs-audio-v2", "higgs-tts-3")
LORA_TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
#: Starts of adapters: that of Microsoft's LoRA, and those of peft that need the weights of the base model alone.
LORA_STARTS = ("true", "false", "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_N")
_OTHER_STARTS = {
    **dict.fromkeys(("eva", "corda", "lora_ga"), "reads the data before the training"),
    "loftq": "quantizes the base model, which plain peft would not load with the adapter",
    "mica": "trains half of an adapter",
}
RESUME_LATEST = "latest"
REQUIRED = ("train_manifest", "output_dir")  # settings without a default
#: Field of a base checkpoint's config.json. True for random weights, where a loss at chance level is expected.
RANDOM_WEIGHTS = "random_weights"

#: Settings that the first logs lack.
_LATER = frozenset(
    (
        *(
            "max_batch_seconds",
            "text_column",
            "audio_column",
            "speaker_column",
            "strict_data",
            "keep_best",
            "log_probes",
        ),
        *("say_steps", "say_prompts", "say_samples", "say_temperature", "say_asr", "say_speaker"),
        *("load_in_4bit", "load_in_8bit", "full_finetune", "train", "freeze", "lora_config", "use_dora", "use_rslora"),
        *("lora_bias", "modules_to_save", "init_lora_weights", "lora_layers", "console"),
    )
)
#: Levels of detail of the console sink, as in `sinks.rendering.renderers`.
CONSOLE_DETAILS = ("full", "compact", "line")
GROUPS = ("data", "model", "lora", "optimisation", "run", "log", "voice")


def _flag(
    default: Any,
    group: str,
    text: str,
    *,
    aliases: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    hint: str = "",
    path: bool = False,
    interval: bool = False,
) -> Any:
    metadata = {
        "group": group,
        "help": text,
        "aliases": aliases,
        "minimum": minimum,
        "above": above,
        "below": below,
        "maximum": maximum,
        "choices": choices,
        "hint": hint,
        "path": path,
        "interval": interval,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of one training run. The constructor checks all values.

    The metadata of each field describes the setting. The constructor replaces `~` at the beginning of a path by the
    home folder, so that a setting has one value wherever the setting comes from.

    Raises:
        UserError: A value is out of range, or a required path is empty.

    Example:
        >>> settings = TrainSettings(train_manifest="train.jsonl", output_dir="out", log_codebooks="0,7")
        >>> settings.lr, settings.codebooks(num_codebooks=8)
        (0.0001, (0, 7))
    """

    train_manifest: str = _flag(
        "", "data", "samples to train on: a file, folder or data set (required)", aliases=("train_file",), path=True
    )
    eval_manifest: str | None = _flag(
        None, "data", "samples to evaluate on, in any such form", aliases=("validation_file",), path=True
    )
    text_column: str | None = _flag(None, "data", "column of the texts [a known name]")
    audio_column: str | None = _flag(None, "data", "column of the recordings [a known name]")
    speaker_column: str | None = _flag(None, "data", "column of the speakers [a known name]")
    max_seconds: float = _flag(60.0, "data", "longest clip, in seconds", above=0)
    skip_bad_samples: bool = _flag(False, "data", "skip samples that have problems, and print the problems")
    strict_data: bool = _flag(False, "data", "end the run before training if the audit of the data finds an error")
    codes_dir: str | None = _flag(
        None, "data", "cache of encoded audio [~/.cache/higgs-audio-trainer/codes]", path=True
    )

    base_ckpt: str = _flag(
        DEFAULT_BASE_CKPT,
        "model",
        "base checkpoint: a folder or a name on the Hub",
        aliases=("model_name_or_path",),
        path=True,
    )
    audio_tokenizer: str | None = _flag(None, "model", "codec: a folder or a name [the codec of base_ckpt]", path=True)
    dtype: str = _flag(
        "auto",
        "model",
        "data type of the base model; auto: bfloat16 on a GPU with bfloat16, else float32",
        choices=("auto", "float32", "bfloat16", "float16"),
        aliases=("torch_dtype",),
    )
    attn_implementation: str = _flag("sdpa", "model", "attention: sdpa, eager, flash_attention_2 or flex_attention")
    load_in_4bit: bool = _flag(False, "model", "base model in 4 bit, nf4 (QLoRA); needs the extra qlora")
    load_in_8bit: bool = _flag(False, "model", "base model in 8 bit; needs the extra qlora")
    full_finetune: bool = _flag(False, "model", "train the model itself, without adapters")
    train: str | None = _flag(
        None, "model", "parameters to train with --full_finetune: patterns of names like layers.*.mlp.* [all]"
    )
    freeze: str | None = _flag(None, "model", "parameters not to train with --full_finetune: patterns of names [none]")

    lora_r: int = _flag(32, "lora", "rank of the adapters", aliases=("lora_rank", "rank"), minimum=1)
    lora_alpha: int = _flag(64, "lora", "adapters are scaled by alpha / r", minimum=1)
    lora_dropout: float = _flag(0.05, "lora", "dropout before each adapter", minimum=0, below=1)
    lora_targets: str = _flag(
        LORA_TARGETS,
        "lora",
        "modules with an adapter: names or endings; mlp.* is text, audio_mlp.* audio [attention, MLPs]",
        aliases=("lora_target_modules",),
    )
    lora_layers: str | None = _flag(None, "lora", "layers with adapters: numbers and ranges like 0-7,12 [all]")
    lora_bias: str = _flag("none", "lora", "biases to train", choices=("none", "all", "lora_only"))
    use_rslora: bool = _flag(False, "lora", "scale adapters by alpha / sqrt(r)")
    use_dora: bool = _flag(False, "lora", "decompose weights into magnitude and direction (DoRA)")
    init_lora_weights: str = _flag("true", "lora", f"start of the adapters: {', '.join(LORA_STARTS)}")
    modules_to_save: str | None = _flag(None, "lora", "modules to train and save whole beside the adapters [none]")
    lora_config: str | None = _flag(
        None, "lora", "file with fields of peft's LoraConfig, JSON or YAML; flags must not contradict it", path=True
    )

    batch_size: int = _flag(
        1, "optimisation", "samples per micro-batch and device", aliases=("per_device_train_batch_size",), minimum=1
    )
    grad_accum: int = _flag(
        8, "optimisation", "micro-batches per optimizer step", aliases=("gradient_accumulation_steps",), minimum=1
    )
    max_batch_seconds: float | None = _flag(
        None, "optimisation", "padded audio of a micro-batch, in seconds, in place of --batch_size [no limit]", above=0
    )
    epochs: float = _flag(3.0, "optimisation", "passes over the manifest", aliases=("num_train_epochs",), above=0)
    max_steps: int = _flag(-1, "optimisation", "optimizer steps; -1: all steps of the epochs")
    lr: float = _flag(1e-4, "optimisation", "peak learning rate", aliases=("learning_rate",), minimum=0)
    wd: float = _flag(0.01, "optimisation", "weight decay", aliases=("weight_decay",), minimum=0)
    warmup: float = _flag(
        0.03, "optimisation", "warm-up steps; below 1: a fraction of all steps", aliases=("warmup_steps",), minimum=0
    )
    text_loss_weight: float | None = _flag(
        None, "optimisation", "loss = weight x text loss + audio loss [v2: 1; TTS 3: 0, the text is masked]", minimum=0
    )
    gradient_checkpointing: bool = _flag(False, "optimisation", "recompute activations: less memory, more time")
    loss_chunk_rows: int | None = _flag(
        None,
        "optimisation",
        "largest number of rows whose logits are in memory at a time [256 MiB in float32]",
        minimum=1,
    )
    seed: int = _flag(42, "optimisation", "seed of all random generators", minimum=0, maximum=2**32 - 1)

    output_dir: str = _flag("", "run", "folder for adapter, checkpoints and events (required)", path=True)
    resume: str | None = _flag(
        None,
        "run",
        "continue a run from its last or the given checkpoint",
        aliases=("resume_from_checkpoint",),
        path=True,
    )
    val_steps: float = _flag(
        500, "run", "evaluate every N steps; below 1: a share", aliases=("eval_steps",), interval=True
    )
    save_steps: float = _flag(
        500,
        "run",
        "save a checkpoint every N steps; below 1: a share; the last 3 stay (all: --save_total_limit 0)",
        interval=True,
    )
    keep_best: str = _flag(
        "loss", "run", "keep the adapter of the best evaluation: a field of eval_result or generation_sample, or none"
    )
    report_to: str = _flag("none", "run", "trackers of transformers, e.g. tensorboard,wandb")

    log_steps: float = _flag(
        50,
        "log",
        "log step 1 and every N steps; below 1: a share",
        aliases=("logging_steps",),
        interval=True,
        hint="to turn logging off: --sinks none",
    )
    sinks: str = _flag("console,jsonl", "log", "sinks of events: console, jsonl, none or MODULE:FACTORY")
    console: str | None = _flag(
        None,
        "log",
        "text on the console: full, compact (a line a sample) or line (a line a step) [full]",
        choices=CONSOLE_DETAILS,
    )
    processors: str = _flag("none", "log", "structlog processors of events, before the sinks: MODULE:FACTORY,...")
    log_samples: int = _flag(2, "log", "samples of the micro-batch to log; 0: none", minimum=0, maximum=1000)
    log_window: int = _flag(5, "log", "slots to log at each end", minimum=1, maximum=1000)
    log_codebooks: str = _flag("0", "log", "codebooks to log: a list like 0,1,7 or all")
    log_text: bool = _flag(True, "log", "log the spoken text, and decoded text beside token ids")
    log_ranks: bool = _flag(False, "log", "log rank and probability of each logged label")
    log_audio: int = _flag(0, "log", "decode logged samples to WAV files every N logged steps; 0: never", minimum=0)
    log_audio_seconds: float = _flag(60.0, "log", "time limit of decoding one WAV file, in seconds", above=0)
    diagnose: str = _flag(
        "warn",
        "log",
        "checks of the record; fail: an error ends the run with exit status 3 after a checkpoint",
        choices=("off", "warn", "fail"),
    )
    log_probes: int = _flag(
        0,
        "log",
        "samples of the evaluation, else of the training, to log at every logged step",
        minimum=0,
        maximum=1000,
    )
    log_all_ranks: bool = _flag(False, "log", "write a log file on every rank, not only on rank 0")
    strict_logging: bool = _flag(False, "log", "end the run when logging fails")

    say_steps: float | None = _flag(
        None,
        "voice",
        "speak the probes every N steps; below 1: a share; 0: never [at each evaluation]",
        interval=True,
        minimum=0,
    )
    say_prompts: str | None = _flag(
        None, "voice", "file of texts to speak [the first samples of the evaluation, else of the training]", path=True
    )
    say_samples: int | None = _flag(
        None, "voice", "samples to speak, without --say_prompts [--log_samples]", minimum=1, maximum=1000
    )
    say_temperature: float = _flag(0.0, "voice", "randomness of the probes' speech; 0: most likely codes", minimum=0)
    say_asr: str | None = _flag(
        None,
        "voice",
        "model of speech recognition, for error rates of the probes: a folder or a name on the Hub",
        path=True,
    )
    say_speaker: str | None = _flag(
        None,
        "voice",
        "model of speaker embeddings, for the similarity of the voice: a folder or a name on the Hub",
        path=True,
    )

    extra: Mapping[str, Any] = field(default_factory=dict)  # other fields of transformers.TrainingArguments
    lora_fields: Mapping[str, Any] = field(default_factory=dict)  # fields of lora_config that no flag names

    def __post_init__(self) -> None:
        for item in flags():
            value = getattr(self, item.name)
            if item.metadata["path"] and isinstance(value, (str, os.PathLike)):
                object.__setattr__(self, item.name, expanded(os.fspath(value), f"--{item.name}"))
            elif item.metadata["interval"] and value is not None and float(value).is_integer():
                object.__setattr__(self, item.name, int(value))  # 50, not 50.0, in the log
            _check(item, value)
        further = {
            name: expanded(value, f"--{name}") if isinstance(value, str) and value.startswith("~/") else value
            for name, value in self.extra.items()
        }
        object.__setattr__(self, "extra", further)
        for name in REQUIRED:
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, got nothing. See --help.")
        if self.max_steps != -1 and self.max_steps < 1:
            raise UserError(f"--max_steps: expected at least 1, or -1 for whole epochs, got {self.max_steps}")
        if self.warmup > 1 and self.warmup != int(self.warmup):
            raise UserError(f"--warmup: expected whole steps, or a fraction below 1, got {self.warmup:g}")
        if not self.targets():
            raise UserError(f"--lora_targets: expected names of modules, got {self.lora_targets!r}")
        self._check_method()
        self._check_console()
        if self.log_codebooks != "all" and not re.fullmatch(r"\d+(,\d+)*", self.log_codebooks):
            raise UserError(f"--log_codebooks: expected a list like 0,1,7 or all, got {self.log_codebooks!r}")

    def _check_console(self) -> None:
        """Check `console`, and pass the value to the console sink as its option `detail`.

        Raises:
            UserError: No sink is the console, its option has another value, or samples to decode are not logged.
        """
        if self.log_audio and not self.log_samples:
            raise UserError("--log_audio: expected --log_samples of at least 1, whose samples are decoded, got 0")
        if self.console is None:
            return
        option = f"detail={self.console}"
        sinks = [sink.strip() for sink in self.sinks.split(",")]
        consoles = [sink for sink in sinks if sink.partition(":")[0] == "console"]
        if not consoles:
            raise UserError(f"--console: expected the sink console in --sinks, got --sinks {self.sinks}. Leave one out")
        for number, sink in enumerate(sinks):
            details = [part for part in sink.split(":") if part.startswith("detail=")]
            if sink in consoles and details not in ([], [option]):
                given = details[0].removeprefix("detail=")
                raise UserError(f"--console: expected {given} as in --sinks, got {self.console}. Leave one out")
            if sink in consoles and not details:
                sinks[number] = f"{sink}:{option}"
        object.__setattr__(self, "sinks", ",".join(sinks))

    def _check_method(self) -> None:
        """Check the settings that choose what is trained.

        Raises:
            UserError: A value is unknown, or two settings contradict each other.
        """
        if self.load_in_4bit and self.load_in_8bit:
            raise UserError("--load_in_4bit: expected no --load_in_8bit beside it, got both. Leave one out")
        start = self.init_lora_weights.lower()
        object.__setattr__(self, "init_lora_weights", start)
        if start not in LORA_STARTS[:-1] and not re.fullmatch(r"pissa_niter_[1-9]\d*", start):
            reason = f", which {_OTHER_STARTS[start]}" if start in _OTHER_STARTS else ""
            raise UserError(f"--init_lora_weights: expected one of {', '.join(LORA_STARTS)}, got {start!r}{reason}")
        if start.startswith(("olora", "pissa")) and (self.load_in_4bit or self.load_in_8bit):
            raise UserError(
                f"--init_lora_weights: expected true, false, gaussian or orthogonal with a quantized base model, whose "
                f"weights the start would change, got {start}"
            )
        self.layers()
        if self.dtype == "float16" and (self.full_finetune or self.modules_to_save or self.lora_bias != "none"):
            raise UserError(
                "--dtype: expected auto, float32 or bfloat16 to train weights of the base model, since steps of an "
                "optimizer in float16 overflow, got float16"
            )
        if self.full_finetune:
            adapters = [item for item in flags() if item.metadata["group"] == "lora"]
            packed = [item for item in flags() if item.name in ("load_in_4bit", "load_in_8bit")]
            for item in (*packed, *adapters):
                if getattr(self, item.name) != default_of(item):
                    why = "whose weights cannot be trained" if item in packed else "which is of adapters"
                    raise UserError(
                        f"--full_finetune: expected no --{item.name}, {why}, got {getattr(self, item.name)}. "
                        "Leave one out"
                    )
        for name in ("train", "freeze"):
            if getattr(self, name) is not None and not self.full_finetune:
                raise UserError(
                    f"--{name}: expected --full_finetune, got a training of adapters, whose modules --lora_targets "
                    "and --lora_layers choose"
                )

    def layers(self) -> tuple[int, ...] | None:
        """Return the layers in `lora_layers`, ascending. None for all.

        Raises:
            UserError: The value is no list of numbers and ranges.

        Example:
            >>> TrainSettings(train_manifest="train.jsonl", output_dir="out", lora_layers="0-2,7").layers()
            (0, 1, 2, 7)
        """
        if self.lora_layers is None:
            return None
        parts = [part.strip() for part in self.lora_layers.split(",")]
        bounds = [tuple(map(int, part.split("-"))) for part in parts if re.fullmatch(r"\d{1,6}(-\d{1,6})?", part)]
        if len(bounds) < len(parts) or any(found[0] > found[-1] for found in bounds):
            raise UserError(f"--lora_layers: expected numbers and ranges like 0-7,12, got {self.lora_layers!r}")
        return tuple(sorted({layer for found in bounds for layer in range(found[0], found[-1] + 1)}))

    def as_mapping(self) -> dict[str, Any]:
        """Return all settings by name, including secrets.

        Settings of later versions are left out at their default, so that logs stay equal to logs from before them.
        """
        settings = {item.name: getattr(self, item.name) for item in fields(self)} | {"extra": dict(self.extra)}
        if self.processors in ("", "none"):
            del settings["processors"]
        settings["lora_fields"] = dict(self.lora_fields)
        if not self.lora_fields:
            del settings["lora_fields"]
        for item in flags():
            if item.name in _LATER and settings[item.name] == default_of(item):
                del settings[item.name]
        return settings

    @property
    def text_weight(self) -> float:
        """Weight of the text loss, once the family is known. See `with_text_loss`."""
        assert self.text_loss_weight is not None, "the weight is filled in when the checkpoint is open"
        return self.text_loss_weight

    def with_text_loss(self, default: float) -> TrainSettings:
        """Return the settings with a weight of the text loss.

        Args:
            default: Weight where the settings have none.

        Example:
            >>> settings = TrainSettings(train_manifest="train.jsonl", output_dir="out")
            >>> settings.with_text_loss(1.0).text_loss_weight
            1.0
        """
        return self if self.text_loss_weight is not None else replace(self, text_loss_weight=default)

    def targets(self) -> tuple[str, ...]:
        """Return the module names in `lora_targets`, or the one regular expression that `lora_config` has instead."""
        if "target_modules" in self.lora_fields:
            return (self.lora_targets,)
        return tuple(name for part in self.lora_targets.split(",") if (name := part.strip()))

    def codebooks(self, num_codebooks: int) -> tuple[int, ...]:
        """Return the codebooks that `log_codebooks` names.

        Args:
            num_codebooks: Codebooks of the model.

        Raises:
            UserError: The model has fewer codebooks.
        """
        if self.log_codebooks == "all":
            return tuple(range(num_codebooks))
        chosen = tuple(dict.fromkeys(map(int, self.log_codebooks.split(","))))
        if max(chosen) >= num_codebooks:
            raise UserError(
                f"--log_codebooks: expected codebooks from 0 to {num_codebooks - 1}, as the model has, "
                f"got {max(chosen)}"
            )
        return chosen


def expanded(path: str, where: str) -> str:
    """Return a path with the home folder in place of `~` or `~user` at the beginning, as a shell would.

    Args:
        path: Path, or any other text, which stays as it is.
        where: Name of the setting, for the message.

    Raises:
        UserError: The home folder is unknown.

    Example:
        >>> expanded("out/run-1", "--output_dir")
        'out/run-1'
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(
            f"{where}: expected a path, got {path!r}, whose home folder is unknown. Write the path without ~"
        ) from error


def flags() -> list[Field[Any]]:
    """Return the fields of `TrainSettings` that are flags, in order.

    Example:
        >>> [item.name for item in flags()][:2]
        ['train_manifest', 'eval_manifest']
    """
    return [item for item in fields(TrainSettings) if item.metadata]


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field.

    Example:
        >>> default_of(next(item for item in flags() if item.name == "log_steps"))
        50
    """
    assert item.default is not MISSING
    return item.default


def _check(item: Field[Any], value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    limits = item.metadata
    hint = f"; {limits['hint']}" if limits["hint"] else ""
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(f"--{item.name}: expected one of {', '.join(limits['choices'])}, got {value!r}{hint}")
    bounds = []
    if limits["minimum"] is not None:
        bounds.append((value >= limits["minimum"], f"at least {limits['minimum']}"))
    if limits["above"] is not None:
        bounds.append((value > limits["above"], f"more than {limits['above']}"))
    if limits["below"] is not None:
        bounds.append((value < limits["below"], f"less than {limits['below']}"))
    if limits["maximum"] is not None:
        bounds.append((value <= limits["maximum"], f"at most {limits['maximum']}"))
    if isinstance(value, float) and not math.isfinite(value) and not limits["interval"]:
        bounds.append((False, "finite"))
    if limits["interval"]:
        holds = 0 < value < 1 or (value >= 1 and float(value).is_integer()) or value == limits["minimum"]
        never = ", or 0 for never" if limits["minimum"] == 0 else ""
        bounds = [(holds, f"whole steps, at least 1, or a fraction of all steps below 1{never}")]
    if not all(holds for holds, _ in bounds):  # NaN violates every bound
        raise UserError(f"--{item.name}: expected {' and '.join(text for _, text in bounds)}, got {value:g}{hint}")
