"""What taking a due step's samples out of the logits costs, beside taking the argmax of everything and slicing.

    python -m benchmarks.extraction [--quick] [--json FILE]

Text logits `[4, 1024, 128256]` and audio logits `[1200, 8, 1026]` in bfloat16: four samples of a prompt and speech. The
naive way is `logits.argmax(-1)` over all of it, then the first and last 5 slots of 2 samples, text and codebook 0. Ours
is all that the trainer calls at a due step, `Extraction.observe`, `sums` and `finish`, with what the model hands it:
the text rows that have a target, and all 1200 audio rows, which have one. From those it takes not only the same slots
but the accuracy of text and of each codebook, ranks of the stop tokens, and the events.

Rows of text and audio alone say where it goes: every audio row has a target whose prediction is counted, so there both
ways look at the same logits.

A temporary is the storage of a tensor that an operation of ours makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.examples import example, torch_threads
from benchmarks.rows import Row, run_alone
from benchmarks.timing import interleaved, ratio
from higgs_audio_trainer.data.batch import Collator, TokenIds, Vocabulary
from higgs_audio_trainer.data.delay import num_stream_frames
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.extraction import Extracted, Extraction
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.extraction.token_counts import TokenCounter
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.training.model import TrainingOutput
from higgs_audio_trainer.training.model_streams import annotate_training_batch, training_streams

THREADS = 1  # what ours does is over before a second thread of a busy machine has woken up
SAMPLES, WINDOW = 2, 5  # what is shown
_ENTRIES = 1026
_IDS = TokenIds(128_001, 128_016, 128_014, 1024, 1025, 8)
_MARKERS = (128_013, 128_012, 128_009)
_VOCABULARY = Vocabulary((128_009,), _IDS.stream_bos, _IDS.stream_eos, (_IDS.audio, _IDS.audio_delay))
_SHOWN = WindowSettings(SAMPLES, WINDOW, (0,), None)
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the logits.

    Attributes:
        batch_size: B.
        length: S.
        entries: V.
        audio_rows: M, of all samples.
        rounds: calls of each kind that count.
    """

    batch_size: int = 4
    length: int = 1024
    entries: int = 128_256
    audio_rows: int = 1200
    rounds: int = 3


QUICK = Size(batch_size=2, length=128, audio_rows=120, rounds=1)


class Logits:
    """Logits of a batch and both ways to read them."""

    def __init__(self, size: Size) -> None:
        frames = size.audio_rows // size.batch_size - _IDS.num_codebooks
        assert num_stream_frames(frames, _IDS.num_codebooks) - 1 == size.audio_rows // size.batch_size
        self.batch = Collator(_IDS)(
            [
                example(_IDS, length=size.length, frames=frames, markers=_MARKERS, seed=seed)
                for seed in range(size.batch_size)
            ]
        )
        torch.manual_seed(0)
        one = torch.randn(size.length, size.entries, dtype=torch.bfloat16)
        self.text_BSV = one.repeat(size.batch_size, 1, 1)
        self.audio_MKC = torch.randn(size.audio_rows, _IDS.num_codebooks, _ENTRIES, dtype=torch.bfloat16)
        text, audio = self._text_rows(), self._audio_rows()
        self.outputs = {
            "both": _outputs(text, audio),
            "text": _outputs(text, _none_of(audio)),
            "audio": _outputs(_none_of(text), audio),
        }

    def _text_rows(self) -> SupervisedRows:
        labels = self.batch["labels"]
        batch_index, row = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
        wanted = labels[batch_index, row + 1]
        nll = torch.ones(wanted.shape)
        return SupervisedRows(self.text_BSV[batch_index, row], wanted, nll, batch_index, row + 1, row)

    def _audio_rows(self) -> SupervisedRows:
        labels = self.batch["audio_labels"]
        is_audio = (self.batch["input_ids"] == _IDS.audio) | (self.batch["input_ids"] == _IDS.audio_delay)
        supervised = (labels != IGNORE_INDEX).any(-1).flatten()
        batch_index, position = (part[supervised] for part in is_audio.nonzero(as_tuple=True))
        wanted = labels.flatten(0, 1)[supervised].T
        nll = torch.ones(wanted.shape)
        return SupervisedRows(self.audio_MKC, wanted, nll, batch_index, position, position - 1)

    def ours(self, part: str = "both", *, counts: bool = False) -> Extracted:
        """Do what the trainer does at a due step; with counts, for the checks too."""
        counter = TokenCounter(partial(annotate_training_batch, vocabulary=_VOCABULARY)) if counts else None
        extraction = Extraction("train", _SHOWN, partial(training_streams, vocabulary=_VOCABULARY), counter)
        extraction.observe(self.outputs[part], self.batch, self.batch["samples"])
        extracted = extraction.finish(extraction.sums(_IDS.num_codebooks, torch.device("cpu")), step=1, epoch=0.0)
        assert extracted is not None, "samples are shown"
        return extracted

    def naive(self, part: str = "both") -> list[list[int]]:
        """Take the argmax of everything, and cut the same slots out of it."""
        windows: list[list[int]] = []
        if part != "audio":
            windows += self._naive_windows(self.text_BSV.argmax(-1), self.outputs["both"].text)
        if part != "text":
            predictions = self.audio_MKC.argmax(-1)[:, 0]
            rows = self.outputs["both"].audio
            for sample in range(SAMPLES):
                slots = predictions[(rows.batch_index == sample) & (rows.labels[0] != IGNORE_INDEX)]
                windows += [slots[:WINDOW].tolist(), slots[-WINDOW:].tolist()]
        return windows

    def _naive_windows(self, predictions: Tensor, rows: SupervisedRows) -> list[list[int]]:
        windows = []
        for sample in range(SAMPLES):
            row = rows.row[rows.batch_index == sample]
            span = predictions[sample, row[0] : row[-1] + 1]
            windows += [span[:WINDOW].tolist(), span[-WINDOW:].tolist()]
        return windows


def _outputs(text: SupervisedRows, audio: SupervisedRows) -> Any:
    # Any: the fields of an output of transformers may be None, and these are not.
    zero = torch.zeros(())
    return TrainingOutput(zero, zero, zero, torch.zeros(_IDS.num_codebooks), text, audio)


def _none_of(rows: SupervisedRows) -> SupervisedRows:
    return SupervisedRows(
        rows.logits[:0],
        rows.labels[..., :0],
        rows.nll[..., :0],
        *(part[:0] for part in (rows.batch_index, rows.position, rows.row)),
    )


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the bytes of the largest storage that an operation made within the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation, and look at what is new in its results."""
        known = {_storage(part) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        results = func(*args, **(kwargs or {}))
        for part in tree_leaves(results):
            if isinstance(part, Tensor) and _storage(part) not in known:
                self.num_bytes = max(self.num_bytes, part.untyped_storage().nbytes())
        return results


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def rows(quick: bool = False) -> list[Row]:
    """Measure both ways.

    Raises:
        RuntimeError: they do not find the same tokens.
    """
    size = QUICK if quick else Size()
    with torch_threads(THREADS):
        logits = Logits(size)
        _compare(logits)
        calls: dict[str, Callable[[], object]] = {
            f"{name} {part}": partial(way, part)
            for part in ("both", "text", "audio")
            for name, way in (("ours", logits.ours), ("naive", logits.naive))
        }
        calls["counts"] = partial(logits.ours, "both", counts=True)
        seconds = interleaved(calls, rounds=size.rounds)
        with LargestTensor() as largest:
            logits.ours()
        with LargestTensor() as largest_counted:
            logits.ours("both", counts=True)
    text = f"[{size.batch_size}, {size.length}, {size.entries}]"
    audio = f"[{size.audio_rows}, {_IDS.num_codebooks}, {_ENTRIES}]"
    shapes = {"both": f"{text} and {audio}", "text": f"{text} alone", "audio": f"{audio} alone"}
    both = _row(f"extraction from logits {shapes['both']} bf16", seconds, "both")
    counted = [
        with_counts - without for with_counts, without in zip(seconds["counts"], seconds["ours both"], strict=True)
    ]
    return [
        Row(both.name, both.figure, both.unit, both.against, both.ratio, "at most 0.01", (both.ratio or 0) <= 1 / 100),
        *(_row(f"of it {shapes[part]}", seconds, part) for part in ("text", "audio")),
        Row(
            "largest temporary of it",
            largest.num_bytes / _KIB,
            "KiB",
            target="at most 1024",
            holds=largest.num_bytes <= 1024 * _KIB,
        ),
        Row(
            "counts for the checks, besides",
            1000 * median(counted),
            "ms",
            "extraction",
            ratio(counted, seconds["ours both"]),
        ),
        Row("largest temporary with the counts", largest_counted.num_bytes / _KIB, "KiB"),
    ]


def _row(name: str, seconds: Mapping[str, Sequence[float]], part: str) -> Row:
    ours, naive = seconds[f"ours {part}"], seconds[f"naive {part}"]
    return Row(name, 1000 * median(ours), "ms", "argmax over all rows, then slicing", ratio(ours, naive))


def _compare(logits: Logits) -> None:
    """Hold the tokens of both ways against each other, with text before audio."""
    by_modality = sorted(logits.ours().samples, key=lambda sample: sample.modality, reverse=True)
    windows = [window for sample in by_modality for window in (sample.first, sample.last)]
    for window, tokens in zip(windows, logits.naive(), strict=True):
        pairs = list(zip(window.predictions, tokens, strict=True))
        if any(ours not in (None, naive) for ours, naive in pairs):  # None: a masked slot
            raise RuntimeError(f"expected {tokens}, which the naive way found, got {window.predictions}")


if __name__ == "__main__":
    run_alone(rows, __doc__)
