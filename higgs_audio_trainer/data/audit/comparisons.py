"""Findings that compare samples with each other: repeated recordings, texts and ids, and unusual speaking rates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from higgs_audio_trainer.data.audit.characters import SCRIPTS
from higgs_audio_trainer.data.audit.columns import SPLITS, ClipColumns, SampleNames
from higgs_audio_trainer.data.audit.findings import MOST_SAMPLES, FoundFaults
from higgs_audio_trainer.events import Split

_Mask = npt.NDArray[np.bool_]
_NO_SAMPLES = np.empty(0, dtype=np.uint32)

_SCATTER = np.uint64(0x9E3779B97F4A7C15)  # an odd number with evenly spread bits
_LEAST_OVERLAP_S = 0.5  # of two clips of a file; neighbouring sentences may be cut with a margin
_LEAST_CLIPS = 20  # of a script, whose usual speaking rate is known
_LEAST_SPEECH_S = 0.1
_PRIOR_LETTERS = 8.0  # at the usual rate, added to each clip: the rate of a short clip says little
_DEVIATIONS = 6.0  # robust standard deviations from the median
_LEAST_RATIO = 2.0  # to the usual rate
_MAD_TO_DEVIATION = 1.4826


class Comparisons:
    """Comparisons of all samples. The findings are added to `faults`.

    Args:
        columns: Numbers about the clips of all samples, the samples of the training first.
        num_train: Number of training samples.
        names: Places and ids of the samples.
        faults: Receives the findings.
    """

    def __init__(self, columns: ClipColumns, num_train: int, names: SampleNames, faults: FoundFaults) -> None:
        self._columns = columns
        self._num_train = num_train
        self._names = names
        self._faults = faults
        self._is_eval = columns.sample >= num_train

    def compare(self, ids: npt.NDArray[np.int64]) -> None:
        """Make all comparisons.

        Args:
            ids: Hash of the id of each sample, int64 [samples].
        """
        columns = self._columns
        targets = ~columns.is_reference
        recordings = (columns.audio, columns.codes)
        train, evaluation = targets & ~self._is_eval, targets & self._is_eval
        self._find_common("leak", recordings, train, evaluation, stretches=True)
        self._find_common(
            "reference_leak", recordings, evaluation, ~targets & ~self._is_eval, one_way=True, stretches=True
        )
        self._find_common("same_text", (columns.text,), train, evaluation)
        self._find_two_transcripts(recordings)
        self._find_own_references(recordings)
        self._find_same_ids(ids)
        self._find_speaking_rates()

    def _find_common(
        self,
        code: str,
        keys: tuple[npt.NDArray[np.uint64], ...],
        left: _Mask,
        right: _Mask,
        *,
        one_way: bool = False,
        stretches: bool = False,
    ) -> None:
        """Find clips of two kinds with the same key, or with a part of a file in common.

        The samples of the right clips are named.

        Args:
            code: Code of the finding.
            keys: Columns of hashes; one equal hash suffices.
            left: Clips of the one kind.
            right: Clips of the other kind.
            one_way: The samples of the left clips are not counted.
            stretches: Clips with half a second of a file in common count too.
        """
        found_left, found_right = [_NO_SAMPLES], [_NO_SAMPLES]
        partners: dict[int, int] = {}  # sample on the left by named sample on the right
        for key in keys:
            ours, theirs = np.flatnonzero(left & (key != 0)), np.flatnonzero(right & (key != 0))
            if not len(theirs):
                continue
            ours = ours[_is_in(key[ours], key[theirs])]
            theirs = theirs[_is_in(key[theirs], key[ours])]
            found_left.append(self._columns.sample[ours])
            found_right.append(self._columns.sample[theirs])
            for row in self._first_rows(theirs):
                first = ours[np.argmax(key[ours] == key[row])]
                partners.setdefault(int(self._columns.sample[row]), int(self._columns.sample[first]))
        if stretches:
            theirs, partner = self._overlapping(right, left)
            found_right.append(self._columns.sample[theirs])
            found_left.append(self._columns.sample[self._overlapping(left, right)[0]])
            for sample, other in zip(self._columns.sample[theirs], self._columns.sample[partner], strict=True):
                partners.setdefault(int(sample), int(other))
        self._add(code, np.concatenate(found_right), lambda sample: f"as {self._shown(partners[sample])}")
        if not one_way:
            self._count(code, np.concatenate(found_left))

    def _overlapping(self, among: _Mask, others: _Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the rows of clips that overlap with another kind of clips of the same file, and a clip for each."""
        columns = self._columns
        has_file = (columns.file != 0) & np.isfinite(columns.seconds)
        rows, theirs = np.flatnonzero(among & has_file), np.flatnonzero(others & has_file)
        rows = rows[_is_in(columns.file[rows], columns.file[theirs])]
        theirs = theirs[_is_in(columns.file[theirs], columns.file[rows])]
        if not len(rows):
            return rows, rows
        files = np.unique(columns.file[rows])
        span = float((columns.start_s + columns.seconds)[np.append(rows, theirs)].max()) + 1
        begin_R, end_R = _on_line(rows, files, columns, span)
        begin_T, end_T = _on_line(theirs, files, columns, span)
        order = np.argsort(begin_T)
        latest_T = np.maximum.accumulate(end_T[order])
        owner_T = np.maximum.accumulate(np.where(end_T[order] == latest_T, np.arange(len(order)), 0))
        before = np.searchsorted(begin_T[order], end_R - _LEAST_OVERLAP_S) - 1
        overlaps = (before >= 0) & (latest_T[np.maximum(before, 0)] > begin_R + _LEAST_OVERLAP_S)
        return rows[overlaps], theirs[order[owner_T[before[overlaps]]]]

    def _find_two_transcripts(self, keys: tuple[npt.NDArray[np.uint64], ...]) -> None:
        """Find recordings with several texts."""
        text, found = self._columns.text, [_NO_SAMPLES]
        partners: dict[int, int] = {}
        for key in keys:
            known = np.flatnonzero((key != 0) & (text != 0))
            known = known[_is_in(key[known], _repeated(key[known]))]
            order = known[np.lexsort((text[known], key[known]))]
            is_same = key[order[1:]] == key[order[:-1]]
            spoiled = np.unique(key[order[1:]][is_same & (text[order[1:]] != text[order[:-1]])])
            rows = known[_is_in(key[known], spoiled)]
            found.append(self._columns.sample[rows])
            for row in self._first_rows(rows):
                other = rows[np.argmax((key[rows] == key[row]) & (text[rows] != text[row]))]
                partners.setdefault(int(self._columns.sample[row]), int(self._columns.sample[other]))
        self._add("two_transcripts", np.concatenate(found), lambda sample: f"as {self._shown(partners[sample])}")

    def _find_own_references(self, keys: tuple[npt.NDArray[np.uint64], ...]) -> None:
        """Find samples with the same recording as reference and target."""
        columns, found = self._columns, [_NO_SAMPLES]
        if not columns.is_reference.any():
            return
        for key in keys:
            references, targets = (
                np.flatnonzero(mask & (key != 0)) for mask in (columns.is_reference, ~columns.is_reference)
            )
            of_sample = key ^ (columns.sample * _SCATTER)  # one number for sample and recording
            found.append(columns.sample[references[_is_in(of_sample[references], of_sample[targets])]])
        self._add("own_reference", np.concatenate(found), lambda _: "")

    def _find_same_ids(self, ids: npt.NDArray[np.int64]) -> None:
        """Find repeated ids of a split."""
        found = [_NO_SAMPLES]
        for split in (np.arange(self._num_train), np.arange(self._num_train, len(ids))):
            samples = split[_is_in(ids[split], _repeated(ids[split]))]
            _, first = np.unique(ids[samples], return_index=True)
            found.append(np.delete(samples, first).astype(np.uint32))

        def detail_of(sample: int) -> str:
            start = self._num_train if sample >= self._num_train else 0
            return f"as {self._shown(start + int(np.argmax(ids[start:] == ids[sample])))}"

        self._add("same_id", np.concatenate(found), detail_of)

    def _find_speaking_rates(self) -> None:
        """Find texts far too long or too short for their recording, by script."""
        columns = self._columns
        seconds = np.maximum(columns.speech_s, _LEAST_SPEECH_S)
        known = (columns.text != 0) & (columns.length > 0) & (columns.script > 0) & np.isfinite(seconds)
        unusual: dict[int, str] = {}
        for script in np.unique(columns.script[known]).tolist():
            rows = np.flatnonzero(known & (columns.script == script))
            if len(rows) < _LEAST_CLIPS:
                continue
            usual = float(np.median(columns.length[rows] / seconds[rows]))
            rates = np.log((columns.length[rows] + _PRIOR_LETTERS) / (usual * seconds[rows] + _PRIOR_LETTERS))
            off = rates - np.median(rates)
            limit = max(np.log(_LEAST_RATIO), _DEVIATIONS * _MAD_TO_DEVIATION * float(np.median(np.abs(off))))
            for row in rows[np.abs(off) > limit].tolist():
                rate = columns.length[row] / seconds[row]
                usually = f"usually {usual:.1f} in {SCRIPTS[script]}"
                unusual.setdefault(int(columns.sample[row]), f"{rate:.1f} characters a second, {usually}")
        self._add("speaking_rate", np.array([*unusual], dtype=np.uint32), unusual.__getitem__)

    def _add(self, code: str, samples: npt.NDArray[np.integer], detail_of: Callable[[int], str]) -> None:
        """Count samples, and name the first samples."""
        different = np.unique(samples)
        for sample in different[:MOST_SAMPLES].tolist():
            split: Split = "eval" if sample >= self._num_train else "train"
            self._faults.add(code, split, *self._names[sample], detail_of(sample))
        self._count(code, different[MOST_SAMPLES:])

    def _first_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Return a row of each of the first samples, of which a sample may have several."""
        _, first = np.unique(self._columns.sample[rows], return_index=True)
        return rows[first[:MOST_SAMPLES]]

    def _count(self, code: str, samples: npt.NDArray[np.integer]) -> None:
        different = np.unique(samples)
        num_train = int(np.searchsorted(different, self._num_train))
        for split, number in zip(SPLITS, (num_train, len(different) - num_train), strict=True):
            if number:
                self._faults.count(code, split, number)

    def _shown(self, sample: int) -> str:
        where, sample_id = self._names[sample]
        return f"{where} ({sample_id})"


def _on_line(
    rows: npt.NDArray[np.intp], files: npt.NDArray[np.uint64], columns: ClipColumns, span: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return begins and ends of clips on a line of files, one file after the other, `span` seconds each."""
    begins = (np.searchsorted(files, columns.file[rows]) * span + columns.start_s[rows]).astype(np.float64)
    return begins, (begins + columns.seconds[rows]).astype(np.float64)


def _is_in(values: npt.NDArray[np.integer], among: npt.NDArray[np.integer]) -> _Mask:
    """Return a mask of the values among others. For few others the function is faster than `np.isin`."""
    if not len(among):
        return np.zeros(len(values), dtype=np.bool_)
    different = np.unique(among)
    places = np.searchsorted(different, values)
    found: _Mask = different[np.minimum(places, len(different) - 1)] == values
    return found


def _repeated(values: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Return repeated values."""
    in_order = np.sort(values)
    return in_order[1:][in_order[1:] == in_order[:-1]]
