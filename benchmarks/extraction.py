"""Cost of extracting a logged step's windows from the logits, beside the argmax of all logits and slicing.

    python -m benchmarks.extraction [--quick] [--json FILE]

Text logits `[4, 1024, 128256]` and audio logits `[1200, 8, 1026]` in bfloat16, for four samples of a prompt and speech.
The naive implementation is `logits.argmax(-1)` over all logits, then the first and last 5 slots of 2 samples, for text
and codebook 0. Our implementation is everything that the trainer calls at a logged step (`Extraction.observe`, `sums`
and `finish`) with the output of the model: the text rows that have a label and all 1200 audio rows. The result has the
same slots, and also the accuracies of text and of each codebook, the ranks of stop tokens, and the events.

Separate rows for text and audio show the origin of the cost. Every audio row has a label and counts towards the
accuracy, so both implementations read the same audio logits.

A temporary tensor is the storage of a tensor created by an operation of our implementation.
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
from transformers import HiggsAudioV2Config

from benchmarks.rows import ResultRow, run_alone
from benchmarks.timing import interleaved, ratio
from benchmarks.workload import random_example, token_ids, tokens_around, torch_threads, vocabulary_of
from higgs_audio_trainer.data.batch import Collator
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.extraction import Extracted, Extraction
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.extraction.token_counts import TokenCounter
from higgs_audio_trainer.extraction.windows import WindowSettings
from higgs_audio_trainer.families.training_forward import TrainingOutput
from higgs_audio_trainer.training.model_streams import micro_batch_of

THREADS = 1  # a second thread of a busy machine wakes up after our extraction has finished
SAMPLES, WINDOW = 2, 5  # shown samples, shown slots
_ENTRIES = 1026
_IDS = token_ids(HiggsAudioV2Config())
_VOCABULARY = vocabulary_of(_IDS)
_SHOWN = WindowSettings(SAMPLES, WINDOW, (0,), None)
_KIB = 1024


@dataclass(frozen=True, slots=True)
class LogitsSize:
    """Size of the logits.

    Attributes:
        batch_size: Samples of the batch, B.
        length: Tokens of a sequence, S.
        entries: Size of the text vocabulary, V.
        audio_rows: Supervised audio rows of all samples, M.
        rounds: Counted calls of each kind.
    """

    batch_size: int = 4
    length: int = 1024
    entries: int = 128_256
    audio_rows: int = 1200
    rounds: int = 3


QUICK = LogitsSize(batch_size=2, length=128, audio_rows=120, rounds=1)


class LogitsBatch:
    """Logits of a batch, and both implementations of the extraction."""

    def __init__(self, size: LogitsSize) -> None:
        frames = size.audio_rows // size.batch_size - _IDS.num_codebooks  # T frames have T + K supervised rows
        prompt = size.length - frames - tokens_around(_IDS.num_codebooks)
        self.batch = Collator(_IDS)(
            [random_example(_IDS, prompt=prompt, frames=frames, seed=seed) for seed in range(size.batch_size)]
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
        """Extract as the trainer does at a logged step.

        Args:
            part: "both", "text" or "audio".
            counts: Also count tokens for the checks.
        """
        extraction = Extraction("train", _SHOWN, TokenCounter() if counts else None)
        outputs, samples = self.outputs[part], self.batch["samples"]
        extraction.observe(micro_batch_of(outputs, self.batch, samples, vocabulary=_VOCABULARY))
        extracted = extraction.finish(extraction.sums(_IDS.num_codebooks, torch.device("cpu")), step=1, epoch=0.0)
        assert extracted is not None, "two samples are shown"
        return extracted

    def naive(self, part: str = "both") -> list[list[int]]:
        """Take the argmax of all logits and slice the same windows.

        Args:
            part: "both", "text" or "audio".

        Returns:
            Predicted token ids of each window, text before audio.
        """
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
    # Any, because mypy takes each field of a transformers output as optional.
    zero = torch.zeros(())
    return TrainingOutput(zero, zero, zero, torch.zeros(_IDS.num_codebooks), text, audio)


def _none_of(rows: SupervisedRows) -> SupervisedRows:
    assert isinstance(rows.logits, Tensor)
    return SupervisedRows(
        rows.logits[:0],
        rows.labels[..., :0],
        rows.nll[..., :0],
        *(part[:0] for part in (rows.batch_index, rows.position, rows.row)),
    )


class LargestTemporary(TorchDispatchMode):
    """Context with the bytes of the largest storage created by an operation in the block.

    Example:
        >>> ones = torch.ones(1000)
        >>> with LargestTemporary() as largest:
        ...     _ = ones.view(10, 100).sum(-1)  # a view has no storage of its own
        >>> largest.num_bytes
        40
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record the storages of new result tensors."""
        known = {_storage(part) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        results = func(*args, **(kwargs or {}))
        for part in tree_leaves(results):
            if isinstance(part, Tensor) and _storage(part) not in known:
                self.num_bytes = max(self.num_bytes, part.untyped_storage().nbytes())
        return results


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def rows(quick: bool = False) -> list[ResultRow]:
    """Measure both implementations.

    Raises:
        RuntimeError: The implementations find different tokens.
    """
    size = QUICK if quick else LogitsSize()
    with torch_threads(THREADS):
        logits = LogitsBatch(size)
        _compare(logits)
        calls: dict[str, Callable[[], object]] = {
            f"{name} {part}": partial(way, part)
            for part in ("both", "text", "audio")
            for name, way in (("ours", logits.ours), ("naive", logits.naive))
        }
        calls["counts"] = partial(logits.ours, "both", counts=True)
        seconds = interleaved(calls, rounds=size.rounds)
        with LargestTemporary() as largest:
            logits.ours()
        with LargestTemporary() as largest_counted:
            logits.ours("both", counts=True)
    text = f"[{size.batch_size}, {size.length}, {size.entries}]"
    audio = f"[{size.audio_rows}, {_IDS.num_codebooks}, {_ENTRIES}]"
    shapes = {"both": f"{text} and {audio}", "text": f"{text} alone", "audio": f"{audio} alone"}
    both = _row(f"extraction from logits {shapes['both']} bf16", seconds, "both")
    counted = [
        with_counts - without for with_counts, without in zip(seconds["counts"], seconds["ours both"], strict=True)
    ]
    return [
        ResultRow(
            both.name, both.figure, both.unit, both.against, both.ratio, "at most 0.01", (both.ratio or 0) <= 1 / 100
        ),
        *(_row(f"extraction from logits {shapes[part]}", seconds, part) for part in ("text", "audio")),
        ResultRow(
            "largest temporary tensor of extraction",
            largest.num_bytes / _KIB,
            "KiB",
            target="at most 1024",
            holds=largest.num_bytes <= 1024 * _KIB,
        ),
        ResultRow(
            "token counts for the checks, in addition",
            1000 * median(counted),
            "ms",
            "extraction",
            ratio(counted, seconds["ours both"]),
        ),
        ResultRow("largest temporary tensor with token counts", largest_counted.num_bytes / _KIB, "KiB"),
    ]


def _row(name: str, seconds: Mapping[str, Sequence[float]], part: str) -> ResultRow:
    ours, naive = seconds[f"ours {part}"], seconds[f"naive {part}"]
    return ResultRow(name, 1000 * median(ours), "ms", "argmax over all rows, then slicing", ratio(ours, naive))


def _compare(logits: LogitsBatch) -> None:
    """Compare the tokens of both implementations, text before audio."""
    by_modality = sorted(logits.ours().samples, key=lambda sample: sample.modality, reverse=True)
    windows = [window for sample in by_modality for window in (sample.first, sample.last)]
    for window, tokens in zip(windows, logits.naive(), strict=True):
        pairs = list(zip(window.predictions, tokens, strict=True))
        if any(ours not in (None, naive) for ours, naive in pairs):  # None marks a masked slot
            raise RuntimeError(f"expected the tokens {tokens} of the naive implementation, got {window.predictions}")


if __name__ == "__main__":
    run_alone(rows, __doc__)
