"""Sample events and the records of the events."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from higgs_audio_trainer.events import (
    EVENTS,
    IGNORE_INDEX,
    VOLATILE_EVENTS,
    CapReached,
    Checkpoint,
    CodesEnd,
    DatasetAudit,
    DatasetFinding,
    Diagnosis,
    EvalResult,
    Event,
    FoundSample,
    GenerationSample,
    PredictionSample,
    PrepareProgress,
    RunEnd,
    RunStart,
    SinkRecovered,
    SplitStatistics,
    TokenCounts,
    TrainStep,
    Window,
)
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import MemorySink, SinkContext

RUN_ID = "20260102-030405-abcd"


def fixed_clock() -> datetime:
    """Return the same time, always."""
    return datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC)


def context(output_dir: object = "out", *, rank: int = 0, attempt: int = 0) -> SinkContext:
    """Make the context that a sink's factory receives."""
    return SinkContext(str(output_dir), RUN_ID, rank, attempt)


def run_start(**changes: Any) -> RunStart:
    """Make a `run_start`."""
    event = RunStart(
        config={"lr": 1e-4, "extra": {"bf16": True}},
        versions={"python": "3.11.7", "torch": "2.13.0"},
        world_size=1,
        device="cpu",
        seed=42,
        resumed_from_step=None,
        num_train_samples=1234,
        num_eval_samples=0,
        num_codebooks=8,
        trainable_parameters=5_678_901,
        host="studio",
    )
    return replace(event, **changes)


def train_step(**changes: Any) -> TrainStep:
    """Make a `train_step`."""
    event = TrainStep(
        step=20,
        epoch=5.0,
        loss=4.13217,
        text_loss=0.83121,
        audio_loss=3.30096,
        audio_loss_per_codebook=(3.0, 3.60192),
        text_accuracy=0.8125,
        audio_accuracy_per_codebook=(0.4123, 0.25),
        text_targets=16,
        audio_targets=248,
        learning_rate=1e-4,
        grad_norm=1.23456,
        step_ms=210.4,
        logging_ms=1.5,
    )
    return replace(event, **changes)


def window(
    labels: Sequence[int],
    predictions: Sequence[int | None] | None = None,
    *,
    start: int = 10,
    predicted_text: str | None = None,
    label_text: str | None = None,
) -> Window:
    """Make a window. Predictions are correct by default."""
    right = tuple(None if label == IGNORE_INDEX else label for label in labels)
    return Window(
        positions=tuple(range(start, start + len(labels))),
        inputs=tuple(None if index == 0 else label for index, label in enumerate(labels)),
        labels=tuple(labels),
        predictions=right if predictions is None else tuple(predictions),
        predicted_text=predicted_text,
        label_text=label_text,
    )


def text_sample(**changes: Any) -> PredictionSample:
    """Make the `prediction_sample` of a text with two wrong slots of twelve."""
    event = PredictionSample(
        step=20,
        epoch=5.0,
        split="train",
        modality="text",
        sample_index=0,
        sample_id="en-1",
        fingerprint="0123456789abcdef",
        codebook=None,
        num_codebooks=None,
        shift=1,
        logits_shape=(24, 128256),
        labels_shape=(24,),
        num_targets=12,
        num_correct=10,
        accuracy=10 / 12,
        loss=0.5,
        stop_targets=1,
        first=window([1234, 5678, 9012, 3456, 7891], [1234, 5678, 9012, 3456, 7890]),
        last=window([2345, 6789, 123, 4567, 8902], [2345, 6789, 123, 4567, 8901], start=17),
        stop_rank=3,
        stop_probability=0.125,
    )
    return replace(event, **changes)


def audio_sample(**changes: Any) -> PredictionSample:
    """Make the `prediction_sample` of codebook 0: the same windows, with the shapes of an audio batch."""
    audio = {
        "modality": "audio",
        "codebook": 0,
        "num_codebooks": 8,
        "logits_shape": (123, 8, 1026),
        "labels_shape": (8, 123),
    }
    return replace(text_sample(), **(audio | changes))


def token_counts(**changes: Any) -> TokenCounts:
    """Make the `token_counts` of the text of `train_step`; of codebook 0 with `codebook=0`."""
    if changes.get("codebook") is not None:
        changes = {"modality": "audio", "num_codebooks": 8, "supervised": {"codes": 15, "stop": 1}} | changes
    event = TokenCounts(
        step=20,
        modality="text",
        codebook=None,
        num_codebooks=None,
        num_targets=16,
        num_correct=13,
        divisor=16.0,
        masked={"prompt": 57, "placeholder": 72},
        supervised={"response": 16},
        label_matches=(1, 2, 16, 2, 1),
        offset_contested=(12, 13, 13, 12, 14),
        offset_matches=(0, 1, 2, 0, 1),
        offset_correct=(10, 11, 11, 9, 12),
        offset_surplus=(-0.25, 0.5, 1.25, 0.0, -0.125),
        stop_targets=1,
        stop_correct=1,
        stop_rank=1.0,
        stop_probability=0.75,
        unigram_accuracy=0.125,
        unigram_loss=2.5,
        top_prediction=1234,
        top_prediction_share=0.1875,
        constant_samples=(),
        strip=None,
    )
    return replace(event, **changes)


def eval_result(**changes: Any) -> EvalResult:
    """Make an `eval_result`."""
    event = EvalResult(
        step=20,
        epoch=5.0,
        loss=4.5,
        text_loss=1.0,
        audio_loss=3.5,
        audio_loss_per_codebook=(3.0, 4.0),
        text_accuracy=0.75,
        audio_accuracy_per_codebook=(0.5, 0.25),
        text_targets=40,
        audio_targets=800,
        num_samples=3,
        duration_s=1.25,
    )
    return replace(event, **changes)


def generation_sample(**changes: Any) -> GenerationSample:
    """Make the `generation_sample` of a probe of two codebooks that stopped, a bit earlier than the recording."""
    event = GenerationSample(
        step=20,
        probe="p-1",
        fingerprint="fedcba9876543210",
        text="Bonjour tout le monde.",
        decoding={"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_frames": 170},
        seed=42,
        frames=80,
        frames_label=85,
        stopped=True,
        first=(
            CodesEnd(codebook=0, codes=(12, 345, 678, 90, 12), labels=(12, 345, 678, 91, 12)),
            CodesEnd(codebook=1, codes=(5, 6, 7, 8, 9), labels=(5, 6, 7, 8, 10)),
        ),
        last=(
            CodesEnd(codebook=0, codes=(1, 2, 3, 4, 5), labels=(1, 2, 3, 4, 6)),
            CodesEnd(codebook=1, codes=(11, 12, 13, 14, 15), labels=(11, 12, 13, 14, 15)),
        ),
        agreement=(0.5, 0.25),
        longest_run=2,
        repeat_share=0.0125,
        silence_share=0.125,
        peak=0.625,
        audio="audio/step-000020-probe-p-1.wav",
        cer=None,
        wer=None,
        speaker_similarity=None,
        duration_s=1.5,
    )
    return replace(event, **changes)


def checkpoint(**changes: Any) -> Checkpoint:
    """Make a `checkpoint`."""
    step = changes.get("step", 20)
    return replace(Checkpoint(step=step, path=f"checkpoint-{step}"), **changes)


def diagnosis(**changes: Any) -> Diagnosis:
    """Make a `diagnosis`."""
    event = Diagnosis(
        step=20, code="no_stop_label", severity="warning", message="No stop token is supervised.", evidence={"stops": 0}
    )
    return replace(event, **changes)


def prepare_progress(**changes: Any) -> PrepareProgress:
    """Make a `prepare_progress`."""
    event = PrepareProgress(
        stage="encoding",
        clips_done=1500,
        clips_total=6000,
        audio_hours_done=3.25,
        times_real_time=64.0,
        seconds_left=549.0,
        faults=2,
        workers=4,
    )
    return replace(event, **changes)


def split_statistics(**changes: Any) -> SplitStatistics:
    """Make the statistics of a split of four samples."""
    split = SplitStatistics(
        samples=4,
        recordings=3,
        audio_hours=0.0025,
        speakers=2,
        length_bin_s=1.0,
        length_counts=(0, 2, 1, 1),
        shortest_s=1.25,
        median_s=2.0,
        longest_s=3.75,
        sampling_rates={"8000": 1, "24000": 3},
        scripts={"Arabic": 1, "Latin": 3},
    )
    return replace(split, **changes)


def dataset_finding(**changes: Any) -> DatasetFinding:
    """Make a finding about one sample."""
    finding = DatasetFinding(
        code="silent",
        severity="warning",
        count=1,
        by_split={"train": 1},
        message="the recording is silent. Remove the sample",
        samples=(FoundSample(where="data/train.jsonl:3", id="en-3", detail="-71 dBFS"),),
    )
    return replace(finding, **changes)


def dataset_audit(**changes: Any) -> DatasetAudit:
    """Make a `dataset_audit`."""
    event = DatasetAudit(
        splits={"train": split_statistics(), "eval": split_statistics(samples=1, speakers=None)},
        findings=(dataset_finding(code="leak", severity="error"), dataset_finding()),
    )
    return replace(event, **changes)


def sink_recovered(**changes: Any) -> SinkRecovered:
    """Make a `sink_recovered`."""
    return replace(SinkRecovered(sink="jsonl", lost=3, first_seq=4, last_seq=6, errno=28), **changes)


def cap_reached(**changes: Any) -> CapReached:
    """Make a `cap_reached`."""
    return replace(CapReached(sink="jsonl", max_total_bytes=1_000_000, total_bytes=998_877), **changes)


def run_end(**changes: Any) -> RunEnd:
    """Make a `run_end`."""
    event = RunEnd(
        reason="completed", step=30, events_written=1234, events_lost=0, values_replaced=0, logging_ms_total=56.7
    )
    return replace(event, **changes)


def all_events() -> list[Event]:
    """Make one event of each kind, with a `prediction_sample` and a `token_counts` for each modality."""
    return [
        run_start(),
        train_step(),
        text_sample(),
        audio_sample(),
        token_counts(),
        token_counts(codebook=0),
        eval_result(),
        generation_sample(),
        checkpoint(),
        diagnosis(),
        prepare_progress(),
        dataset_audit(),
        sink_recovered(),
        cap_reached(),
        run_end(),
    ]


def compared_events() -> list[Event]:
    """Make the events of `all_events` that comparisons compare."""
    return [event for event in all_events() if event.name not in VOLATILE_EVENTS]


def record_of(event: Event) -> dict[str, Any]:
    """Emit an event and return the record that a sink receives."""
    memory = MemorySink()
    Pipeline([("memory", memory)], run_id=RUN_ID, clock=fixed_clock)(event)
    return memory.records[0]


class Screen(io.StringIO):
    """A terminal whose carriage returns overwrite.

    `lines()` returns the visible text, and `drawn` has all writes in order.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[str] = []

    def isatty(self) -> bool:
        """Answer as a terminal does."""
        return True

    def write(self, text: str) -> int:
        """Apply a text to the screen and store the text."""
        self.drawn.append(text)
        return super().write(text)

    def lines(self) -> list[str]:
        """Return the visible lines of the screen."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


def random_events() -> st.SearchStrategy[Event]:
    """Draw events of every kind that the schemas allow, with NaN, infinities, nulls and text of any script."""
    return st.one_of([_of(cls) for cls in EVENTS.values()])


def has_compared_events(events: Sequence[Event]) -> bool:
    """Tell whether a log has an event that comparisons compare."""
    return any(event.name not in VOLATILE_EVENTS for event in events)


def _of(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{item.name: _values(hints[item.name], item.metadata) for item in fields(cls)})


def _values(hint: Any, bounds: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if get_origin(hint) in (Union, UnionType):  # a Literal or None is the former
        return st.one_of([_values(part, bounds) for part in get_args(hint)])
    if get_origin(hint) is tuple:
        return st.lists(_values(get_args(hint)[0], {}), max_size=3).map(tuple)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is dict:
        return st.dictionaries(st.text(max_size=3), _values(get_args(hint)[1], {}), max_size=2)
    if hint is Window:
        return st.lists(st.tuples(_TOKEN, st.none() | _TOKEN), max_size=5).map(_window_of)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=8),
        bool: st.booleans(),
        int: st.integers(bounds.get("minimum"), bounds.get("maximum", 2**53)),
        float: st.floats(bounds.get("minimum"), bounds.get("maximum")) | st.sampled_from([math.nan, math.inf]),
        type(None): st.none(),
        Any: st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    }
    return _of(hint) if is_dataclass(hint) else simple[hint]


_TOKEN = st.integers(0, 128256) | st.just(IGNORE_INDEX)


def _window_of(slots: list[tuple[int, int | None]]) -> Window:
    made = window([label for label, _ in slots], [predicted for _, predicted in slots], predicted_text="\u202e")
    probabilities = tuple(math.nan if predicted is None else 0.5 for predicted in made.predictions)
    return replace(made, label_ranks=made.predictions, label_probabilities=probabilities)
