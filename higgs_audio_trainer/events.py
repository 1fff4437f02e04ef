"""Typed events of a run: frozen dataclasses of builtins. The module imports only the standard library.

One event becomes one flat JSON object on one line. `Envelope` holds the fields of every line. The other classes are the
payloads, and `EVENTS` maps the name of an event to the class. The files in `schemas/` are generated from these types,
so a new field is added here only. Fields may be added; a changed meaning needs a new `SCHEMA_VERSION`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal

SCHEMA_VERSION = 1
IGNORE_INDEX = -100  # label of a masked slot, which the loss ignores, as in torch and transformers

#: Fields that may differ between two runs with the same seed and settings. Comparisons ignore these fields. `config.x`
#: is the setting x.
VOLATILE_FIELDS = frozenset(
    {
        # process, time and machine
        "ts",
        "run_id",
        "attempt",
        "seq",
        "resumed_from_step",
        "resume_changes",
        "config.resume",
        "host",
        # paths; fingerprints and predictions show the contents
        "config.output_dir",
        "config.train_manifest",
        "config.eval_manifest",
        "config.base_ckpt",
        "config.audio_tokenizer",
        "config.codes_dir",
        "config.say_prompts",
        "config.say_asr",
        "config.say_speaker",
        # padding, which the way of making batches decides and which changes no result
        "padding_share",
        # durations, and deliveries of the log
        "step_ms",
        "logging_ms",
        "logging_ms_total",
        "duration_s",
        "tokens_per_s",
        "audio_seconds_per_s",
        "samples_per_s",
        "data_wait_ms",
        "peak_memory_bytes",
        "seconds_left",
        "step_ms_max",
        "step_ms_median",
        "slowest_rank",
        "events_written",
        "events_lost",
        "values_replaced",
        # places in manifests; the ids show the samples
        "findings.samples.where",
    }
)
#: Events that two runs with the same seed and settings may differ in. Comparisons ignore these events.
VOLATILE_EVENTS = frozenset({"prepare_progress"})
#: Events that may follow events of later steps: generated speech waits for the decoder of its audio, and the checks of
#: the speech for the speech.
LATE_EVENTS = frozenset({"generation_sample", "diagnosis"})

Split = Literal["train", "eval", "probe"]
Modality = Literal["text", "audio"]
Level = Literal["debug", "info", "warning", "error"]
Severity = Literal["note", "warning", "error"]
Stage = Literal["reading", "checking", "encoding", "writing"]


def _doc(text: str, **constraints: Any) -> Any:
    """Return a required field, with description and bounds for the schema."""
    return field(metadata={"description": text, **constraints})


def _added(text: str, default: Any, **constraints: Any) -> Any:
    """Return a field that the first logs lack. The default stands for the missing value in these logs."""
    return field(default=default, metadata={"description": text, **constraints})


def _added_mapping(text: str) -> Any:
    """Return a mapping field that the first logs lack. A missing mapping stands for an empty mapping."""
    return field(default_factory=dict, metadata={"description": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Fields of every line, beside the payload."""

    event: str = _doc("Name of the event; determines the payload.")
    v: int = _doc("Major version of the schema. Readers ignore unknown fields.", minimum=1)
    ts: str = _doc(
        "Time of emission: RFC 3339, UTC, microseconds, ending in Z.",
        format="date-time",
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
    )
    run_id: str = _doc("Identifier of the run, the same in all ranks and attempts.")
    attempt: int = _doc("0 for the first attempt, one more at each resume or elastic restart.", minimum=0)
    rank: int = _doc("Global rank of the process that wrote the line.", minimum=0)
    seq: int = _doc(
        "0, 1, 2, ... in each process and attempt; a gap is a lost event, which a later `sink_recovered` reports.",
        minimum=0,
    )
    level: Level = _doc("Severity.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """First line of every file: settings, versions, data and device of the run.

    Example:
        >>> start = RunStart(
        ...     config={"lr": 0.0001}, versions={"python": "3.11.7"}, world_size=2, device="cuda:0", seed=42,
        ...     host="node-1",
        ...     resumed_from_step=None, num_train_samples=8, num_eval_samples=0, num_codebooks=8,
        ...     trainable_parameters=64,
        ... )
        >>> start.name, start.config["lr"]
        ('run_start', 0.0001)
    """

    name: ClassVar[str] = "run_start"
    config: dict[str, Any] = _doc("Resolved settings; secrets are replaced by [redacted].")
    versions: dict[str, str] = _doc("Versions of Python and of the libraries that decide the result.")
    world_size: int = _doc("Number of processes that train.", minimum=1)
    device: str = _doc("Device of this rank, e.g. cuda:0 or cpu.")
    seed: int = _doc("Seed of every random generator.")
    resumed_from_step: int | None = _doc(
        "Optimizer step of the checkpoint that the run resumed from; null for a new run."
    )
    num_train_samples: int = _doc("Samples in the training manifest that are used.", minimum=0)
    num_eval_samples: int = _doc("Samples in the evaluation manifest that are used.", minimum=0)
    num_codebooks: int = _doc("Codebooks of the audio codec, K; 0 where no audio is trained.", minimum=0)
    trainable_parameters: int = _doc("Parameters that the optimizer updates.", minimum=0)
    host: str = _doc("Name of the machine.")
    base_is_random: bool | None = _added(
        "Whether the base checkpoint declares random weights, as a checkpoint of `tiny` does; null if unknown.",
        None,
    )
    max_length: int | None = _added("Longest sequence of the base model, in positions; null if unknown.", None)
    modalities: tuple[Modality, ...] | None = _added(
        "Modalities that the model is trained on: text, audio or both; null if unknown, which stands for both.", None
    )
    stops: tuple[Modality, ...] | None = _added(
        "Trained modalities that end with a stop token; null if unknown, which stands for all.", None
    )
    family: str | None = _added("Family of the base model, such as higgs-audio-v2; null if unknown.", None)
    resume_changes: dict[str, Any] | None = _added(
        "Settings that differ from those of the checkpoint, as [then, now] by name; null for a new run or if unknown.",
        None,
    )
    total_steps: int | None = _added("Optimizer steps of the whole run; null if unknown.", None, minimum=0)
    schedule: str | None = _added(
        "linear or cosine for a learning rate that falls to 0 in this form, as in transformers; null for another "
        "schedule or if unknown.",
        None,
    )
    vocab_size: int | None = _added("Text tokens that the model predicts from, V; null if unknown.", None, minimum=1)
    codebook_size: int | None = _added(
        "Entries of a codebook with stream BOS and EOS, C; null without audio or if unknown.", None, minimum=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _LossesAndAccuracies:
    """Losses and accuracies of a step or an evaluation, over all batches and ranks."""

    step: int = _doc("Optimizer steps done.", minimum=0)
    epoch: float = _doc("Epochs done.")
    loss: float = _doc("text_loss x text_loss_weight + audio_loss; nats.")
    text_loss: float = _doc("Mean cross-entropy over the supervised text slots; nats. 0 without targets.")
    audio_loss: float = _doc("Mean of audio_loss_per_codebook; nats.")
    audio_loss_per_codebook: tuple[float, ...] = _doc(
        "Mean cross-entropy over the targets of each codebook; nats, [K]. 0 for a codebook without targets."
    )
    text_accuracy: float | None = _doc("Share of supervised text slots predicted correctly; null without targets.")
    audio_accuracy_per_codebook: tuple[float | None, ...] = _doc(
        "Share of supervised slots predicted correctly in each codebook, [K]; null without targets."
    )
    text_targets: int = _doc("Supervised text slots; the divisor of text_loss.", minimum=0)
    audio_targets: int = _doc("Supervised audio slots, all codebooks together.", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep(_LossesAndAccuracies):
    """Losses and accuracies of one optimizer step, over all micro-batches and all ranks.

    Example:
        >>> step = TrainStep(
        ...     step=10, epoch=1.0, loss=4.5, text_loss=0.5, audio_loss=4.0, audio_loss_per_codebook=(3.5, 4.5),
        ...     text_accuracy=0.9, audio_accuracy_per_codebook=(0.2, 0.1), text_targets=12, audio_targets=80,
        ...     learning_rate=0.0001, grad_norm=0.3, step_ms=900.0, logging_ms=7.0,
        ... )
        >>> step.audio_accuracy_per_codebook.index(min(step.audio_accuracy_per_codebook))  # the weakest codebook
        1
    """

    name: ClassVar[str] = "train_step"
    step: int = _doc("Optimizer step, counted from 1.", minimum=1)
    learning_rate: float = _doc("Learning rate that the step used.")
    grad_norm: float | None = _doc("Norm of the gradients before clipping; null if not computed.")
    step_ms: float = _doc("Wall time of the step on this rank, logging included; milliseconds.", minimum=0)
    logging_ms: float = _doc("Part of step_ms spent on extraction; milliseconds.", minimum=0)
    sequence_length: int | None = _added(
        "Longest token sequence of the step on this rank, audio placeholders included; null if unknown.",
        None,
        minimum=0,
    )
    samples: dict[str, str] = _added_mapping(
        "Samples of the step on this rank, up to 64: id in the manifest and fingerprint."
    )
    padding_share: float | None = _added(
        "Share of padding in the positions [B, S] of all micro-batches and ranks; null if unknown.", None, minimum=0
    )
    tokens_per_s: float | None = _added(
        "Positions a second of wall time without padding, over all ranks; null if unknown.", None, minimum=0
    )
    audio_seconds_per_s: float | None = _added(
        "Seconds of audio a second of wall time, over all ranks; null if unknown.", None, minimum=0
    )
    samples_per_s: float | None = _added(
        "Samples a second of wall time, over all ranks; null if unknown.", None, minimum=0
    )
    data_wait_ms: float | None = _added(
        "Part of step_ms spent waiting for the data loader, on this rank; milliseconds; null if unknown.",
        None,
        minimum=0,
    )
    peak_memory_bytes: int | None = _added(
        "Most memory of this rank's device in use since the last logged step or the start; null without a GPU.",
        None,
        minimum=0,
    )
    seconds_left: float | None = _added(
        "Estimated time to the last step; seconds; null if the number of steps is unknown.", None, minimum=0
    )
    step_ms_max: float | None = _added(
        "Longest time of a rank for the step's data and forward passes, without its wait for other ranks; "
        "milliseconds; null with one rank.",
        None,
        minimum=0,
    )
    step_ms_median: float | None = _added(
        "Median of these times over the ranks, the lower of two; milliseconds; null with one rank.", None, minimum=0
    )
    slowest_rank: int | None = _added("Rank with the longest of these times; null with one rank.", None, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Up to `--log_window` neighbouring slots. Entry i of each list belongs to slot i.

    Example:
        >>> window = Window(
        ...     positions=(7, 8, 9), inputs=(5, 6, 2), labels=(6, 2, -100), predictions=(6, 4, None),
        ...     predicted_text=None,
        ...     label_text=None,
        ... )
        >>> slots = zip(window.positions, window.labels, window.predictions)
        >>> [position for position, label, token in slots if token not in (label, None)]
        [8]
    """

    positions: tuple[int, ...] = _doc("Position p of each slot in the sample's token sequence.")
    inputs: tuple[int | None, ...] = _doc(
        "Input token at p-1, from which p is predicted; null where p-1 holds no token of this codebook."
    )
    labels: tuple[int, ...] = _doc("Label at p; -100 where the slot is masked.")
    predictions: tuple[int | None, ...] = _doc(
        "Token that the row at p-1 predicts for p; null for a masked slot, which has no logits."
    )
    predicted_text: str | None = _doc("Decoded predictions (text only, with --log_text).")
    label_text: str | None = _doc("Decoded labels (text only, with --log_text).")
    label_ranks: tuple[int | None, ...] | None = _added(
        "Rank of each label among the logits of the row, 1 for the most likely; null for a masked slot "
        "(with --log_ranks, else null).",
        None,
    )
    label_probabilities: tuple[float | None, ...] | None = _added(
        "Probability of each label; null for a masked slot (with --log_ranks, else null).", None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSample:
    """Predicted and label token ids of one sample, for the text or for one codebook of the audio.

    Example:
        >>> empty = Window(positions=(), inputs=(), labels=(), predictions=(), predicted_text=None, label_text=None)
        >>> sample = PredictionSample(
        ...     step=10, epoch=1.0, split="train", modality="audio", sample_index=0, sample_id="en-1",
        ...     fingerprint="1f0c",
        ...     codebook=0, num_codebooks=8, shift=1, logits_shape=(58, 8, 1026), labels_shape=(8, 58), num_targets=58,
        ...     num_correct=40, accuracy=40 / 58, loss=1.25, stop_targets=1, first=empty, last=empty,
        ... )
        >>> f"{sample.sample_id}, codebook {sample.codebook}: {sample.num_correct} of {sample.num_targets} correct"
        'en-1, codebook 0: 40 of 58 correct'
    """

    name: ClassVar[str] = "prediction_sample"
    step: int = _doc("Optimizer step that the forward pass belongs to, counted from 1.", minimum=0)
    epoch: float = _doc("Epochs done at the end of the step.")
    split: Split = _doc(
        "train: from the step's first micro-batch; eval: from the evaluation's first batch; probe: of `--log_probes`, "
        "after the step."
    )
    modality: Modality = _doc("text or audio.")
    sample_index: int = _doc("Row of the sample in the micro-batch, counted from 0.", minimum=0)
    sample_id: str = _doc("Id of the sample in the manifest.")
    fingerprint: str = _doc(
        "Hash of the sample's input tokens and codes, which identifies the sample over steps and runs."
    )
    codebook: int | None = _doc("Codebook, counted from 0; null for text.")
    num_codebooks: int | None = _doc("Codebooks of the codec, K; null for text.")
    shift: int = _doc("1: the row at position p-1 predicts position p.")
    logits_shape: tuple[int, ...] = _doc("Shape of the logits that the loss saw: text [N, V], audio [N, K, C].")
    labels_shape: tuple[int, ...] = _doc("Shape of the labels that the loss saw: text [N], audio [K, N].")
    num_targets: int = _doc("Supervised slots of this sample and codebook.", minimum=0)
    num_correct: int = _doc("Supervised slots predicted correctly.", minimum=0)
    accuracy: float | None = _doc("num_correct / num_targets; null without targets.")
    loss: float | None = _doc("Mean cross-entropy over the sample's targets; nats; null without targets.")
    stop_targets: int = _doc(
        "Labels that are a stop token: the stream EOS in audio; the end of a turn or of the text in text.", minimum=0
    )
    first: Window = _doc("First slots of the target span (first to last supervised slot).")
    last: Window = _doc("Last slots of the target span; never overlaps `first`.")
    stop_rank: int | None = _added(
        "Rank of the stop token at the last stop label, 1 for the most likely; null without a stop label.",
        None,
        minimum=1,
    )
    stop_probability: float | None = _added(
        "Probability of the stop token at the last stop label; null without a stop label.", None, minimum=0
    )
    predicted_audio: str | None = _added(
        "WAV file of the sample's predicted codes, relative to the output directory (audio, with --log_audio).", None
    )
    label_audio: str | None = _added(
        "WAV file of the sample's labels, relative to the output directory (audio, with --log_audio).", None
    )
    text: str | None = _added("Text that the sample speaks (with --log_text); null if unknown.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Counts that compare labels, inputs and predictions of a step, in the text or in one codebook.

    The counts cover all micro-batches and ranks, unless the description names this rank. A slot consists of a label,
    the row that predicts the label, and the token of the sequence that follows the row's input.

    Example:
        >>> counts = TokenCounts(
        ...     step=1, modality="text", codebook=None, num_codebooks=None, num_targets=3, num_correct=1, divisor=3.0,
        ...     masked={"prompt": 109}, supervised={"response": 3}, label_matches=(0, 0, 3, 0, 0),
        ...     offset_contested=(3, 3, 3, 3, 3), offset_matches=(0, 0, 0, 0, 0), offset_correct=(1, 1, 1, 1, 1),
        ...     offset_surplus=(0.0, 0.0, 0.0, 0.0, 0.0), stop_targets=1, stop_correct=0, stop_rank=4.0,
        ...     stop_probability=0.1,
        ...     unigram_accuracy=0.5, unigram_loss=0.7, top_prediction=7, top_prediction_share=0.5, constant_samples=(),
        ...     strip=None,
        ... )
        >>> counts.label_matches[2] == counts.num_targets  # every label is the token that follows the row's input
        True
    """

    name: ClassVar[str] = "token_counts"
    step: int = _doc("Optimizer step, counted from 1.", minimum=1)
    modality: Modality = _doc("text or audio.")
    codebook: int | None = _doc("Codebook, counted from 0; null for text.")
    num_codebooks: int | None = _doc("Codebooks of the codec, K; null for text.")
    num_targets: int = _doc("Supervised slots.", minimum=0)
    num_correct: int = _doc("Supervised slots predicted correctly.", minimum=0)
    divisor: float | None = _doc(
        "Divisor of the loss of these slots; null without a divisor, or if a loss is 0 or not finite."
    )
    masked: dict[str, int] = _doc(
        "Masked slots by reason: prompt, placeholder, reference_audio, stream_bos, delay_prefix, eos_fill, padding; "
        "response, codes and stop count slots that are masked although they should be supervised."
    )
    supervised: dict[str, int] = _doc(
        "Supervised slots by place: response in text, codes and stop in audio; all other places should be masked."
    )
    label_matches: tuple[int, ...] = _doc(
        "Labels equal to the token of the sequence at offset -2, -1, 0, +1, +2 from the slot; all labels match at 0 if "
        "each row predicts the next token."
    )
    offset_contested: tuple[int, ...] = _doc(
        "Slots whose label differs from a competing token: the label at offset -2, -1, +1, +2 and, as fifth entry, the "
        "row's input; a slot without the competing token is not counted."
    )
    offset_matches: tuple[int, ...] = _doc("Predictions of these slots that equal the competing token.")
    offset_correct: tuple[int, ...] = _doc("Predictions of these slots that equal the label.")
    offset_surplus: tuple[float, ...] = _doc(
        "Excess probability: probability of the competing token, summed over all slots that have a competing token, "
        "less the number of slots whose label is that token; about 0 for a model that expects as much repetition as "
        "the labels have."
    )
    stop_targets: int = _doc("Labels that are a stop token.", minimum=0)
    stop_correct: int = _doc("Stop labels predicted correctly.", minimum=0)
    stop_rank: float | None = _doc(
        "Mean rank of the stop token at each sample's last stop label, 1 for the most likely; null without a label.",
        minimum=1,
    )
    stop_probability: float | None = _doc(
        "Mean probability of the stop token at each sample's last stop label; null without a label.", minimum=0
    )
    unigram_accuracy: float | None = _doc(
        "Share of the most frequent label, the accuracy of always predicting this label; of this rank's slots."
    )
    unigram_loss: float | None = _doc("Entropy of the labels' frequencies; nats; of this rank's slots.")
    top_prediction: int | None = _doc("Most frequent prediction, of this rank's slots; null without targets.")
    top_prediction_share: float | None = _doc("Share of the most frequent prediction; of this rank's slots.")
    constant_samples: tuple[str, ...] = _doc(
        "Samples of this rank, up to 8, whose labels are nearly all equal to the preceding label."
    )
    strip: str | None = _doc(
        "At step 1, the slots of the first sample from position 0 on, as runs of a count and a sign: p prompt, _ "
        "placeholder, # supervised, E supervised stop, r reference audio, B stream BOS, d delay prefix, e EOS fill, "
        "- no slot of this codebook, ? masked although it should be supervised, ! supervised although it should be "
        "masked."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult(_LossesAndAccuracies):
    """Losses and accuracies of one evaluation, over the whole evaluation manifest.

    Example:
        >>> result = EvalResult(
        ...     step=10, epoch=1.0, loss=4.5, text_loss=0.5, audio_loss=4.0, audio_loss_per_codebook=(3.5, 4.5),
        ...     text_accuracy=0.9, audio_accuracy_per_codebook=(0.2, 0.1), text_targets=12, audio_targets=80,
        ...     num_samples=4, duration_s=2.5,
        ... )
        >>> result.loss == result.text_loss + result.audio_loss
        True
    """

    name: ClassVar[str] = "eval_result"
    num_samples: int = _doc("Samples evaluated.", minimum=0)
    duration_s: float = _doc("Wall time of the evaluation; seconds.", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint was saved.

    Example:
        >>> to_mapping(Checkpoint(step=10, path="checkpoint-10"))
        {'step': 10, 'path': 'checkpoint-10'}
    """

    name: ClassVar[str] = "checkpoint"
    step: int = _doc("Optimizer steps done.", minimum=0)
    path: str = _doc("Folder of the checkpoint, relative to the output directory.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesEnd:
    """Codes of one codebook at one end of generated speech, beside the codes of the recording.

    Example:
        >>> CodesEnd(codebook=0, codes=(5, 9), labels=(5, 7)).labels
        (5, 7)
    """

    codebook: int = _doc("Codebook, counted from 0.", minimum=0)
    codes: tuple[int, ...] = _doc("Generated codes.")
    labels: tuple[int, ...] | None = _doc("Codes of the recording at its same end; null without a recording.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSample:
    """Speech that the model generated freely for a fixed prompt, without the codes of a recording before each frame.

    Example:
        >>> sample = GenerationSample(
        ...     step=50, probe="en-1", fingerprint="1f0c", text="Good morning.", decoding={"temperature": 0.0}, seed=0,
        ...     frames=80, frames_label=85, stopped=True, first=(), last=(), agreement=(0.5, 0.25), longest_run=2,
        ...     repeat_share=0.01, silence_share=0.12, peak=0.6, audio=None, cer=None, wer=None,
        ...     speaker_similarity=None, duration_s=1.5,
        ... )
        >>> f"{sample.frames} of {sample.frames_label} frames"
        '80 of 85 frames'
    """

    name: ClassVar[str] = "generation_sample"
    step: int = _doc("Optimizer steps done.", minimum=0)
    probe: str = _doc("Id of the prompt, the same over the whole run.")
    fingerprint: str = _doc("Hash of the prompt's tokens and codes.")
    text: str = _doc("Text to speak.")
    decoding: dict[str, Any] = _doc("Choice of the codes: temperature, top_p, top_k, max_frames.")
    seed: int = _doc("Seed of the random generators.", minimum=0)
    frames: int = _doc("Codec frames of the speech, T.", minimum=0)
    frames_label: int | None = _doc("Codec frames of the recording of the text; null without one.", minimum=0)
    stopped: bool = _doc("True if the model ended the speech, false if the limit did.")
    first: tuple[CodesEnd, ...] = _doc("First codes of each logged codebook.")
    last: tuple[CodesEnd, ...] = _doc("Last codes of each logged codebook; never overlap `first`.")
    agreement: tuple[float, ...] | None = _doc(
        "Share of equal codes at the same place in speech and recording, by codebook; null without a recording."
    )
    longest_run: int = _doc("Frames of the longest run of one frame, equal in all codebooks.", minimum=0)
    repeat_share: float = _doc("Share of the frames that repeat the frame before.", minimum=0, maximum=1)
    silence_share: float | None = _doc(
        "Share of the waveform's windows of 20 ms below -50 dBFS; null if it was not decoded.", minimum=0, maximum=1
    )
    peak: float | None = _doc("Largest absolute value of the waveform; null if it was not decoded.", minimum=0)
    audio: str | None = _doc("WAV file of the speech, relative to the output directory; null if it was not decoded.")
    cer: float | None = _doc(
        "Character error rate of the transcript by `--say_asr` against the text; null without a transcript.", minimum=0
    )
    wer: float | None = _doc("Word error rate of the transcript; null without a transcript.", minimum=0)
    speaker_similarity: float | None = _doc(
        "Cosine of the speaker embeddings, by `--say_speaker`, of the speech and of the prompt's reference, or of the "
        "recording without a reference; null if unknown.",
        minimum=-1,
        maximum=1,
    )
    duration_s: float = _doc("Time of the generation, over all prompts of its batch; seconds.", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Finding of a check of the record.

    Example:
        >>> found = Diagnosis(
        ...     step=1, code="non_finite", severity="error", message="the loss is NaN", evidence={"loss": None}
        ... )
        >>> f"{found.severity} ({found.code}) at step {found.step}: {found.message}"
        'error (non_finite) at step 1: the loss is NaN'
    """

    name: ClassVar[str] = "diagnosis"
    step: int = _doc("Optimizer step of the finding.", minimum=0)
    code: str = _doc("Name of the check.")
    severity: Severity = _doc("Severity of the finding.")
    message: str = _doc("Finding, usual cause and remedy; one line.")
    evidence: dict[str, Any] = _doc("Numbers behind the finding.")
    modality: Modality | None = _added("text or audio; null for a finding about both.", None)
    codebook: int | None = _added("Codebook, counted from 0; null for a finding that is not about one codebook.", None)
    repeats: int = _added(
        "Repetitions of the finding, no more severe, since the last event of the finding. A repetition emits no event.",
        0,
        minimum=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareProgress:
    """Progress of the preparation of manifests. May stand in a file without a `run_start`.

    Example:
        >>> progress = PrepareProgress(
        ...     stage="encoding", clips_done=500, clips_total=2_000, audio_hours_done=1.0, times_real_time=60.0,
        ...     seconds_left=180.0, faults=3, workers=2,
        ... )
        >>> f"{progress.clips_done / progress.clips_total:.0%} of the clips, {progress.seconds_left / 60:g} min left"
        '25% of the clips, 3 min left'
    """

    name: ClassVar[str] = "prepare_progress"
    stage: Stage = _doc(
        "reading: samples of the manifest are read; checking: files are checked and texts tokenized; encoding: audio "
        "becomes codes; writing: prepared data is written."
    )
    clips_done: int = _doc("Clips of the stage that are done, over all workers; samples but for encoding.", minimum=0)
    clips_total: int = _doc("Clips of the stage; while reading, those that were read so far.", minimum=0)
    audio_hours_done: float = _doc("Audio of the clips that are done; hours.", minimum=0)
    times_real_time: float | None = _doc(
        "Seconds of audio a second of wall time, over all workers; null before the first clip.", minimum=0
    )
    seconds_left: float | None = _doc("Estimated time to the end of the stage; seconds; null if unknown.", minimum=0)
    faults: int = _doc("Problems of samples found so far.", minimum=0)
    workers: int = _doc("Processes that work on the stage.", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStatistics:
    """Statistics of the samples of a split.

    Example:
        >>> split = SplitStatistics(
        ...     samples=3, recordings=3, audio_hours=0.002, speakers=1, length_bin_s=1.0, length_counts=(1, 0, 2),
        ...     shortest_s=0.5, median_s=2.1, longest_s=2.9, sampling_rates={"24000": 3}, scripts={"Latin": 3},
        ... )
        >>> f"{split.length_counts[2]} samples from {2 * split.length_bin_s:g} to {3 * split.length_bin_s:g} s"
        '2 samples from 2 to 3 s'
    """

    samples: int = _doc("Samples that were audited.")
    recordings: int = _doc("Different recordings or codes that the samples speak.")
    audio_hours: float | None = _doc("Audio of all samples, without references; hours; null if unknown.")
    speakers: int | None = _doc("Different speakers; null if the manifest names none.")
    length_bin_s: float | None = _doc("Width of a bin of length_counts; seconds; null without lengths.")
    length_counts: tuple[int, ...] = _doc("Samples by length of the audio. Bin i begins at i x length_bin_s.")
    shortest_s: float | None = _doc("Length of the shortest sample; seconds; null without lengths.")
    median_s: float | None = _doc("Median length of the samples; seconds; null without lengths.")
    longest_s: float | None = _doc("Length of the longest sample; seconds; null without lengths.")
    sampling_rates: dict[str, int] = _doc("Samples by sampling rate of the audio file; Hz.")
    scripts: dict[str, int] = _doc("Samples by the script of most letters of the text, such as Latin or Arabic.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSample:
    """Sample of a finding.

    Example:
        >>> sample = FoundSample(where="train.jsonl:3", id="en-3", detail="-71 dBFS")
        >>> f"{sample.where} ({sample.id}): {sample.detail}"
        'train.jsonl:3 (en-3): -71 dBFS'
    """

    where: str | None = _added("Place in the manifest, file:line; null in a golden file.", None)
    id: str = _doc("Id of the sample in the manifest; empty for a sample that could not be read.")
    detail: str = _doc("Observation in this sample; empty if the finding says all.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFinding:
    """Finding of the audit of the data.

    Example:
        >>> sample = FoundSample(where="train.jsonl:3", id="en-3", detail="")
        >>> finding = DatasetFinding(
        ...     code="silent", severity="warning", count=1, by_split={"train": 1}, message="silent.", samples=(sample,)
        ... )
        >>> finding.code, finding.samples[0].id
        ('silent', 'en-3')
    """

    code: str = _doc("Name of the finding.")
    severity: Severity = _doc("Severity of the finding.")
    count: int = _doc("Affected samples.")
    by_split: dict[str, int] = _doc("Affected samples by split, train or eval.")
    message: str = _doc("Observation, consequence and remedy; one line.")
    samples: tuple[FoundSample, ...] = _doc("First affected samples, up to 10.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetAudit:
    """Statistics of the training and evaluation data, and faults of the data that would spoil a training.

    Example:
        >>> audit = DatasetAudit(splits={}, findings=())
        >>> "no findings" if not audit.findings else audit.findings[0].message
        'no findings'
    """

    name: ClassVar[str] = "dataset_audit"
    splits: dict[str, SplitStatistics] = _doc("Statistics by split, train or eval.")
    findings: tuple[DatasetFinding, ...] = _doc("Findings, the most severe first.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRecovered:
    """A sink works again after a failure.

    The file of the sink lacks `lost` numbers seq between `first_seq` and `last_seq`. Other numbers between the two may
    be in the file, because a sink that takes an event and fails on this event continues to count.

    Example:
        >>> recovered = SinkRecovered(sink="jsonl", lost=3, first_seq=10, last_seq=12, errno=28)
        >>> f"{recovered.sink} lost {recovered.lost} events, seq {recovered.first_seq} to {recovered.last_seq}"
        'jsonl lost 3 events, seq 10 to 12'
    """

    name: ClassVar[str] = "sink_recovered"
    sink: str = _doc("Name of the sink.")
    lost: int = _doc("Lost events: as many seq from first_seq to last_seq are missing in the sink's file.", minimum=0)
    first_seq: int = _doc("seq of the first lost event.", minimum=0)
    last_seq: int = _doc("seq of the last lost event.", minimum=0)
    errno: int | None = _doc("Number of the last error, if the operating system raised the error; else null.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapReached:
    """A sink stops, because the files have reached the size limit. Only `run_end` follows in the files.

    Example:
        >>> CapReached(sink="jsonl", max_total_bytes=1000, total_bytes=990).name
        'cap_reached'
    """

    name: ClassVar[str] = "cap_reached"
    sink: str = _doc("Name of the sink.")
    max_total_bytes: int = _doc("Size limit of all files of the sink together; bytes.", minimum=0)
    total_bytes: int = _doc("Size of all files of the sink at the stop; bytes.", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """Last line of a file whose process ended in order.

    Example:
        >>> end = RunEnd(reason="completed", step=60, events_written=60, events_lost=0, logging_ms_total=54.0)
        >>> end.reason, end.events_lost
        ('completed', 0)
    """

    name: ClassVar[str] = "run_end"
    reason: str = _doc(
        "completed; SIGTERM, SIGINT, SIGHUP or SIGUSR1 for a run that a signal stopped, with a checkpoint if possible; "
        "interrupted for a run that was stopped at once; diagnosis for a run that --diagnose fail ended; error."
    )
    step: int = _doc("Optimizer steps done.", minimum=0)
    events_written: int = _doc("Events that every sink took, without this event.", minimum=0)
    events_lost: int = _doc("Failed deliveries, summed over the sinks, and events that reached no delivery.", minimum=0)
    values_replaced: int = _added(
        "Values that a line cannot hold and that were replaced; see `nonfinite` and `replaced`.", 0, minimum=0
    )
    logging_ms_total: float = _doc("Time spent on logging in this attempt; milliseconds.", minimum=0)
    diagnoses: dict[str, int] = _added_mapping(
        "Number of logged steps or evaluations with each warning and error, by code."
    )
    lost_ranks: tuple[int, ...] | None = _added(
        "Ranks whose unexpected end broke the training off; null if none is known.", None
    )


#: Events of a preparation, which may come before `run_start`, or in a file without a training.
PREPARATION_EVENTS = frozenset({PrepareProgress.name, DatasetAudit.name})

Event = (
    RunStart
    | TrainStep
    | PredictionSample
    | TokenCounts
    | EvalResult
    | GenerationSample
    | Checkpoint
    | Diagnosis
    | PrepareProgress
    | DatasetAudit
    | SinkRecovered
    | CapReached
    | RunEnd
)

#: Name and class of every event.
EVENTS: Mapping[str, type[Event]] = {
    cls.name: cls
    for cls in (
        RunStart,
        TrainStep,
        PredictionSample,
        TokenCounts,
        EvalResult,
        GenerationSample,
        Checkpoint,
        Diagnosis,
        PrepareProgress,
        DatasetAudit,
        SinkRecovered,
        CapReached,
        RunEnd,
    )
}

#: Classes of the objects within events.
PARTS: tuple[type[Any], ...] = (Window, CodesEnd, SplitStatistics, FoundSample, DatasetFinding)


@cache
def _mapping_maker(cls: Any) -> Callable[[Any], dict[str, Any]]:
    """Return a function that returns the fields of an instance as a dict.

    The function is generated, as the methods of a dataclass are. A dict display with attributes takes half the time of
    a loop over names.

    Raises:
        TypeError: The class is no dataclass.
    """
    entries = ", ".join(f"{item.name!r}: event.{item.name}" for item in fields(cls))
    maker: Callable[[Any], dict[str, Any]] = eval(f"lambda event: {{{entries}}}")  # noqa: S307 - text of our field names
    return maker


def to_mapping(event: Event | Window) -> dict[str, Any]:
    """Return an event as a mapping of builtins, in the order of the fields.

    `dataclasses.asdict` copies every list element by element and takes forty times longer.

    Example:
        >>> to_mapping(Checkpoint(step=50, path="checkpoint-50"))
        {'step': 50, 'path': 'checkpoint-50'}
    """
    cls: Any = type(event)
    mapping = _mapping_maker(cls)(event)
    if cls in (DatasetAudit, GenerationSample):
        return {name: _plain(value) for name, value in mapping.items()}
    if cls is PredictionSample:
        for end in ("first", "last"):
            window = mapping[end]
            if type(window) is Window:
                mapping[end] = _mapping_maker(Window)(window)
    return mapping


def _plain(value: Any) -> Any:
    """Return a value with the parts of events as mappings, also in a list or mapping. Other values stay as they are."""
    cls: Any = type(value)
    if cls in PARTS:
        return {name: _plain(item) for name, item in _mapping_maker(cls)(value).items()}
    if cls in (list, tuple) and any(type(item) in PARTS for item in value):
        return cls(_plain(item) if type(item) in PARTS else item for item in value)
    if cls is dict and any(type(item) in PARTS for item in value.values()):
        return {key: _plain(item) if type(item) in PARTS else item for key, item in value.items()}
    return value
