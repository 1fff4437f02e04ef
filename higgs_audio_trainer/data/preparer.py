"""Preparation of a manifest's samples: checks of all files, encoding of all clips, tokens of all prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from higgs_audio_trainer.data.audio import AudioError
from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.data.clips import ClipStore
from higgs_audio_trainer.data.media_path import shown_name
from higgs_audio_trainer.data.prompt import sequence_length, tokenize
from higgs_audio_trainer.data.sample import Clip, Sample
from higgs_audio_trainer.errors import InputProblem, ManifestError, UserError, listed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[Sequence[Clip]], Iterable[Clip]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A manifest that is ready for training.

    Attributes:
        samples: Usable samples.
        problems: Problems of the other samples, in the order of the manifest.
        encoded: Number of newly encoded clips.
    """

    samples: list[PreparedSample]
    problems: list[InputProblem]
    encoded: int


@dataclass(frozen=True, slots=True)
class Preparer:
    """Prepares samples for a model.

    Attributes:
        store: Store of the clips and their codes.
        tokenizer: Tokenizer of the checkpoint.
        num_codebooks: Number of codebooks K.
        max_length: Length of the model's longest sequence, tokens.
        skip_bad_samples: Leave out samples with problems.
        progress: Wrapper of the clips to encode, e.g. a progress bar.
    """

    store: ClipStore
    tokenizer: PreTrainedTokenizerBase
    num_codebooks: int
    max_length: int
    skip_bad_samples: bool = False
    progress: Progress = iter

    def prepare(self, samples: Sequence[Sample], problems: Sequence[InputProblem] = ()) -> Prepared:
        """Check and encode samples. See `check` and `encode`."""
        return self.encode(*self.check(samples, problems))

    def check(
        self, samples: Sequence[Sample], problems: Sequence[InputProblem] = ()
    ) -> tuple[list[PreparedSample], list[InputProblem]]:
        """Check every file of a manifest, and tokenize the samples without problems.

        Args:
            samples: Samples of the manifest without problems so far.
            problems: Problems of the other samples.

        Returns:
            Samples that are usable after the encoding of their clips, and all problems.

        Raises:
            ManifestError: There are problems, and `skip_bad_samples` is off.
            UserError: No sample is left.
        """
        checked, broken = self._check(samples)
        fitting, too_long = self._fitting(checked)
        return fitting, self._judge([*problems, *broken, *too_long], fitting)

    def encode(self, samples: Sequence[PreparedSample], problems: Sequence[InputProblem]) -> Prepared:
        """Encode the clips of checked samples where codes are missing.

        Args:
            samples: Samples from `check`.
            problems: Problems from `check`.

        Raises:
            ManifestError: A sample is a frame or two longer than estimated, and too long for the model.
            UserError: The codec is unusable.
        """
        waiting = self.store.waiting(path for sample in samples for path in sample.code_files)
        for clip in self.progress(waiting):
            self.store.encode(clip)
        usable, too_long = self._fitting(samples)
        return Prepared(usable, self._judge([*problems, *too_long], usable), len(waiting))

    def _check(self, samples: Sequence[Sample]) -> tuple[list[PreparedSample], list[InputProblem]]:
        checked, problems = [], []
        for sample in samples:
            paths = []
            for clip in sample.clips:
                try:
                    paths.append(self.store.check(clip))
                except AudioError as error:
                    got = f"{error.got} ({shown_name(clip.path)!r})"
                    problems.append(InputProblem(sample.where, clip.field, error.expected, got))
            if len(paths) == len(sample.clips):
                segments = tuple(tokenize(sample, self.tokenizer))
                checked.append(PreparedSample(sample.id, segments, tuple(paths), sample.where))
        return checked, problems

    def _fitting(self, samples: Sequence[PreparedSample]) -> tuple[list[PreparedSample], list[InputProblem]]:
        fitting, problems = [], []
        for sample in samples:
            frames = [self.store.frames[path] for path in sample.code_files]
            length = sequence_length(sample.segments, frames, self.num_codebooks)
            if length > self.max_length:
                problems.append(InputProblem(sample.where, "sample", f"at most {self.max_length} tokens", f"{length}"))
            else:
                seconds = sum(frames) / self.store.frame_rate_hz
                fitting.append(replace(sample, clip_frames=tuple(frames), audio_seconds=seconds))
        return fitting, problems

    def _judge(self, problems: Sequence[InputProblem], usable: Sequence[PreparedSample]) -> list[InputProblem]:
        """Return the problems in the order of the manifest, or raise if training cannot continue."""
        in_order = sorted(problems, key=_line_number)
        if in_order and not self.skip_bad_samples:
            raise ManifestError(in_order)
        if not usable:
            raise UserError("\n".join([*listed(in_order), "expected at least one sample without problems, got none"]))
        return in_order


def _line_number(problem: InputProblem) -> int:
    return int(problem.where.rpartition(":")[2])
