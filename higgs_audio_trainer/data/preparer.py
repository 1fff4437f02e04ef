"""A manifest's samples made ready: every file behind them checked, every clip encoded once, every prompt tokenized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.data.clips import ClipStore
from higgs_audio_trainer.data.prompt import sequence_length, tokenize
from higgs_audio_trainer.data.sample import Clip, Sample
from higgs_audio_trainer.errors import InputProblem, ManifestError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[Sequence[Clip]], Iterable[Clip]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A manifest that is ready to train on.

    Attributes:
        samples: the samples that can be used.
        faults: what is wrong with the others, in the order of the manifest.
        encoded: how many clips were encoded just now.
    """

    samples: list[PreparedSample]
    faults: list[InputProblem]
    encoded: int


@dataclass(frozen=True, slots=True)
class Preparer:
    """Makes samples ready for one model.

    Attributes:
        store: knows the clips.
        tokenizer: the checkpoint's.
        num_codebooks: K.
        max_length: longest sequence that the model takes, in tokens.
        skip_bad_samples: go on without the samples that have faults.
        progress: wraps the clips that are encoded, e.g. to draw a bar.
    """

    store: ClipStore
    tokenizer: PreTrainedTokenizerBase
    num_codebooks: int
    max_length: int
    skip_bad_samples: bool = False
    progress: Progress = iter

    def prepare(self, samples: Sequence[Sample], faults: Sequence[InputProblem] = ()) -> Prepared:
        """Check and encode; see `check` and `encode`."""
        return self.encode(*self.check(samples, faults))

    def check(
        self, samples: Sequence[Sample], faults: Sequence[InputProblem] = ()
    ) -> tuple[list[PreparedSample], list[InputProblem]]:
        """Check every file that a manifest names, and tokenize what is in order.

        Args:
            samples: samples of the manifest that are in order so far.
            faults: what is wrong with the others.

        Returns:
            The samples that can be used once their clips are encoded, and all faults.

        Raises:
            ManifestError: there are faults and they are not to be skipped.
            UserError: no sample is left.
        """
        checked, broken = self._check(samples)
        fitting, too_long = self._fitting(checked)
        return fitting, self._judge([*faults, *broken, *too_long], fitting)

    def encode(self, samples: Sequence[PreparedSample], faults: Sequence[InputProblem]) -> Prepared:
        """Encode the clips of checked samples that have no codes yet.

        Raises:
            ManifestError: a sample turned out to be a frame or two longer than the model takes.
            UserError: the codec cannot be used.
        """
        waiting = self.store.waiting(path for sample in samples for path in sample.code_files)
        for clip in self.progress(waiting):
            self.store.encode(clip)
        usable, too_long = self._fitting(samples)
        return Prepared(usable, self._judge([*faults, *too_long], usable), len(waiting))

    def _check(self, samples: Sequence[Sample]) -> tuple[list[PreparedSample], list[InputProblem]]:
        checked, faults = [], []
        for sample in samples:
            paths = []
            for clip in sample.clips:
                try:
                    paths.append(self.store.check(clip))
                except AudioError as error:
                    got = f"{error.got} ({clip.path.name!r})"
                    faults.append(InputProblem(sample.where, clip.field, error.expected, got))
            if len(paths) == len(sample.clips):
                segments = tuple(tokenize(sample, self.tokenizer))
                checked.append(PreparedSample(sample.id, segments, tuple(paths), sample.where))
        return checked, faults

    def _fitting(self, samples: Sequence[PreparedSample]) -> tuple[list[PreparedSample], list[InputProblem]]:
        fitting, faults = [], []
        for sample in samples:
            frames = [self.store.frames[path] for path in sample.code_files]
            length = sequence_length(sample.segments, frames, self.num_codebooks)
            if length > self.max_length:
                faults.append(InputProblem(sample.where, "sample", f"at most {self.max_length} tokens", f"{length}"))
            else:
                fitting.append(sample)
        return fitting, faults

    def _judge(self, faults: Sequence[InputProblem], usable: Sequence[PreparedSample]) -> list[InputProblem]:
        """Sort faults, and stop at them where there is no going on."""
        in_order = sorted(faults, key=_line_number)
        if in_order and not self.skip_bad_samples:
            raise ManifestError(in_order)
        if not usable:
            raise UserError("\n".join([*map(str, in_order), "expected at least one sample without faults, got none"]))
        return in_order


def _line_number(fault: InputProblem) -> int:
    return int(fault.where.rpartition(":")[2])
