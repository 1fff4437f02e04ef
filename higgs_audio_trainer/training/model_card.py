"""Model cards: `README.md` beside a finished adapter, and in a whole checkpoint with an adapter merged into it.

A card counts the data and names none: it holds no path, no sample and no text of the user. The first lines are the
metadata of the Hugging Face Hub. A comment marks a card of ours with a digest of its text, so that a card that the user
changed is never replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import ModelCardData
from transformers import TrainingArguments

from higgs_audio_trainer.atomic_file import atomic_file
from higgs_audio_trainer.checkpoint.base_reference import BaseReference, reference_to
from higgs_audio_trainer.events import DatasetAudit, EvalResult, SplitStatistics, TrainStep
from higgs_audio_trainer.families.family import Family
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.recording.milestones import Milestones, mean_accuracy
from higgs_audio_trainer.recording.settings import RunFacts
from higgs_audio_trainer.training.converted_adapter import saved_rank
from higgs_audio_trainer.training.trainer import HiggsAudioTrainer
from higgs_audio_trainer.versions import versions

FILE_NAME = "README.md"
_MARK = "<!-- Written by higgs-audio-trainer, and replaced by the next training here unless changed: {} -->"
_MARKED = re.compile(re.escape(_MARK).replace(r"\{\}", r"([0-9a-f]{64})") + r"\n?")
_TEMPLATE = "[More Information Needed]"  # of peft's and the Hub's templates, which nobody filled in


class TrainedAdapter(NamedTuple):
    """Facts that a card tells about a training.

    Attributes:
        base: Base checkpoint.
        facts: Facts about the training.
        arguments: Arguments in force.
        steps: Optimizer steps done.
        splits: Statistics of the data by split, train or eval.
        milestones: First, last and best figures.
        repository: Name of the adapter's repository on the Hub; None without one.
    """

    base: BaseReference
    facts: RunFacts
    arguments: TrainingArguments
    steps: int
    splits: Mapping[str, SplitStatistics]
    milestones: Milestones
    repository: str | None = None


def trained_adapter(
    trainer: HiggsAudioTrainer, facts: RunFacts, audit: DatasetAudit, milestones: Milestones
) -> TrainedAdapter:
    """Return the facts about the adapter of a trainer, at the step that the trainer has reached."""
    base = reference_to(facts.config["base_ckpt"])
    return TrainedAdapter(
        base, facts, trainer.args, trainer.state.global_step, audit.splits, milestones, trainer.hub_model_id
    )


def trained_card(trained: TrainedAdapter) -> str:
    """Return the card of an adapter, or of a whole checkpoint that a full fine-tuning trained."""
    base, config, family = trained.base, trained.facts.config, _family(trained.facts)
    folder = trained.repository or "."
    name = (trained.repository or "").rpartition("/")[2]
    done = f"trained for {trained.steps:,} optimizer steps with higgs-audio-trainer."
    if config.get("full_finetune"):
        title, what = name or f"{base.name}, fine-tuned", f"{base.link}, all or part of whose weights were {done}"
        speak = _speak("whole", family.whole_usage(folder=folder, layout=family.layouts[0]), folder)
        library = _library(family)
    else:
        title, what = name or f"LoRA adapter for {base.name}", f"A LoRA adapter for {base.link}, {done}"
        others = family.adapter_usage(
            folder=folder,
            base=base.hub_id or f"path/to/{base.name}",
            rank=saved_rank(config["lora_r"], config.get("init_lora_weights", "true")),
            targets=[*str(config["lora_targets"]).split(","), *str(config.get("modules_to_save") or "").split(",")],
        )
        speak, library = _speak("adapter", others, folder), "peft"
    parts = [f"# {title}", what, speak, _data(trained), _training(trained), _results(trained.milestones), _ending(base)]
    return _card(_metadata(base, library), filter(None, parts))


def whole_card(base: BaseReference, family: Family, layout: str, source: str | None) -> str:
    """Return the card of a whole checkpoint.

    Args:
        base: Base checkpoint.
        family: Family of the checkpoint.
        layout: Layout of the weights.
        source: Card of the adapter, whose data, settings and results are taken over. None without a card of ours.
    """
    kept = [part for part in _sections(source or "") if part.startswith(("## Data\n", "## Training\n", "## Results\n"))]
    parts = [
        f"# {base.name} with a LoRA adapter merged into its weights",
        f"{base.link}, adapted to its training data with higgs-audio-trainer.",
        _speak("whole", family.whole_usage(folder=".", layout=layout), "."),
        *kept,
        _ending(base),
    ]
    return _card(_metadata(base, _library(family)), parts)


def write_card(folder: Path, card: str) -> bool:
    """Write a card to a folder, unless a card is there that the user wrote or changed.

    Args:
        folder: Folder of an adapter or a checkpoint.
        card: Text of the card.

    Returns:
        True if the card was written.

    Raises:
        OSError: The file cannot be written.
    """
    path = folder / FILE_NAME
    if _is_users(path):
        return False
    with atomic_file(path, mode=0o644) as file:
        file.write(_marked(card).encode())
    return True


def own_card(folder: Path) -> str | None:
    """Return the generated card in a folder. None without a card, or for a card that the user changed."""
    text = _text_of(folder / FILE_NAME)
    return text if text is not None and _is_unchanged(text) else None


def _card(metadata: ModelCardData, parts: Iterable[str]) -> str:
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"


def _library(family: Family) -> str | None:
    """Return the public package that loads whole checkpoints of a family."""
    return "transformers" if family.adapter_mapping() else None


def _metadata(base: BaseReference, library: str | None) -> ModelCardData:
    is_adapter = library == "peft"
    relation = "adapter" if is_adapter else "finetune"
    data = ModelCardData(
        base_model=base.hub_id,
        library_name=library,
        license=base.licence.get("license"),
        license_name=base.licence.get("license_name"),
        license_link=base.licence.get("license_link"),
        pipeline_tag="text-to-speech",
        tags=["higgs-audio", "higgs-audio-trainer", *(["lora"] if is_adapter else []), "text-to-speech"],
    )
    if base.hub_id is not None:
        data["base_model_relation"] = relation
    return data


def _speak(kind: Literal["adapter", "whole"], others: str, folder: str) -> str:
    is_local = folder == "."
    place = ", from this folder" if is_local else ""
    get = "" if is_local or kind == "whole" else f"hf download {folder} --local-dir adapter\n"  # `say` takes folders
    spoken = {"adapter": "." if is_local else "adapter", "whole": f"--base_ckpt {folder}"}[kind]
    return (
        f"## Speak\n\nWith higgs-audio-trainer{place}:\n\n"
        f'```bash\n{get}higgs-audio-trainer say {spoken} "Bonjour tout le monde." -o hello.wav\n```\n\n{others}'
    )


def _family(facts: RunFacts) -> Family:
    assert facts.family is not None, "our own training knows its family"
    return FAMILIES[facts.family]


def _data(trained: TrainedAdapter) -> str:
    counts = {"train": trained.facts.num_train_samples, "eval": trained.facts.num_eval_samples}
    rows = []
    for split, name in (("train", "training"), ("eval", "evaluation")):
        audited = trained.splits.get(split)
        if counts[split]:
            hours = audited.audio_hours if audited else None
            speakers = audited.speakers if audited else None
            rows.append([name, f"{counts[split]:,}", _number(hours, ".2f"), _number(speakers, ",")])
    return "## Data\n\n" + _table(["split", "samples", "hours of audio", "speakers"], rows)


def _training(trained: TrainedAdapter) -> str:
    arguments, config, facts = trained.arguments, trained.facts.config, trained.facts
    seconds = config.get("max_batch_seconds")
    size = config["batch_size"] if seconds is None else f"{seconds:g} s of audio"
    batch = f"{size} x {arguments.gradient_accumulation_steps} x {facts.world_size}"
    rows = [
        ["optimizer steps", f"{trained.steps:,}"],
        ["batch: micro-batch x accumulated x processes", batch],
        *_method(config),
        ["trained parameters", f"{facts.trainable_parameters:,}"],
        ["learning rate, schedule", f"{arguments.learning_rate:g}, {_name(arguments.lr_scheduler_type)}"],
        ["warm-up", f"{config['warmup']:g} {'of all steps' if 0 < config['warmup'] < 1 else 'steps'}"],
        ["optimizer, weight decay", f"{_name(arguments.optim)}, {arguments.weight_decay:g}"],
        ["weight of the text loss", f"{config['text_loss_weight']:g}"],
        ["dtype, mixed precision", f"{config['dtype']}, {config['mixed_precision']}"],
        *(
            [f"{bits} bit base model", "linear modules but the heads, bitsandbytes"]
            for bits in (4, 8)
            if config.get(f"load_in_{bits}bit")
        ),
        ["seed", str(facts.seed)],
    ]
    return "## Training\n\n" + _table(["setting", "value"], rows)


def _method(config: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows about what is trained. Rows of LoRA at their defaults are left out."""
    if config.get("full_finetune"):
        rows = [["method", "full fine-tuning"]]
        named = {"train": "trained parameters, patterns", "freeze": "frozen parameters, patterns"}
    else:
        rows = [
            ["LoRA rank, alpha, dropout", f"{config['lora_r']}, {config['lora_alpha']}, {config['lora_dropout']:g}"],
            ["modules with an adapter", _code(config["lora_targets"])],
        ]
        named = {"modules_to_save": "modules trained whole", "lora_layers": "layers with an adapter"}
        named |= {"lora_bias": "trained biases", "init_lora_weights": "start of the adapters"}
        variants = {"use_dora": "DoRA", "use_rslora": "rank-stabilized scale"}
        if used := [name for key, name in variants.items() if config.get(key)]:
            rows.append(["variant of LoRA", ", ".join(used)])
    rows += [[text, _code(config[name])] for name, text in named.items() if config.get(name)]
    return rows + [[f"`{name}` of peft", _code(value)] for name, value in config.get("lora_fields", {}).items()]


def _code(value: Any) -> str:
    """Return a list or a value of the settings as code, in one cell of a table."""
    parts = value.split(",") if isinstance(value, str) else [json.dumps(value)]
    return ", ".join(f"`{part.replace('|', chr(92) + '|')}`" for part in parts)


def _results(milestones: Milestones) -> str:
    named = {
        "training, first logged step": milestones.first_step,
        "training, last logged step": milestones.last_step,
        "evaluation, first": milestones.first_evaluation,
        "evaluation, best loss": milestones.best_evaluation,
        "evaluation, last": milestones.last_evaluation,
    }
    rows = [_figures(name, result) for name, result in named.items() if result is not None]
    if not rows:
        return ""
    header = ["", "step", "loss", "text loss", "audio loss", "text correct", "audio correct", "codebook 0 correct"]
    return (
        "## Results\n\n"
        + _table(header, rows)
        + "\n\nLosses are in nats. The share of correct tokens is that of predictions that follow the labels (teacher "
        "forcing), over all codebooks for the audio."
    )


def _figures(name: str, result: TrainStep | EvalResult) -> list[str]:
    accuracies = (
        result.text_accuracy,
        mean_accuracy(result),
        next(iter(result.audio_accuracy_per_codebook), None),
    )
    losses = (f"{loss:.3f}" for loss in (result.loss, result.text_loss, result.audio_loss))
    return [name, f"{result.step:,}", *losses, *(_number(accuracy, ".1%") for accuracy in accuracies)]


def _ending(base: BaseReference) -> str:
    used = ", ".join(f"{name.replace('_', '-')} {version}" for name, version in versions().items() if name != "trl")
    return f"## Versions\n\n{used}\n\n## Licence\n\n{base.licence_in_words()}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"


def _name(value: object) -> str:
    return str(getattr(value, "value", value))


def _sections(card: str) -> list[str]:
    """Return the sections of a card of ours, each with its heading."""
    return re.split(r"^(?=## )", _MARKED.sub("", card), flags=re.MULTILINE)[1:]


def _marked(card: str) -> str:
    return f"{card}\n{_MARK.format(sha256(card.encode()).hexdigest())}\n"


def _is_unchanged(text: str) -> bool:
    mark = _MARKED.search(text)
    return mark is not None and _marked(text[: mark.start() - 1]) == text


def _is_users(path: Path) -> bool:
    if not path.exists():
        return False
    text = _text_of(path)
    return text is None or not (_is_unchanged(text) or _TEMPLATE in text)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None
