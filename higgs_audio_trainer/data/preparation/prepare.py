"""Preparation of manifests by all processes that share a cache, each of which runs this code.

1. `SamplesTable`: one process parses the manifest, the others wait.
2. The states of all files, such as size and time, give the fingerprint of the prepared data set. If a data set with the
   fingerprint is complete, nothing else is done.
3. `Block`: headers of clips are checked and samples are tokenized, block by block.
4. `encode_jobs`: clips that no data set of the cache has had are encoded, clip by clip.
5. `PreparedDataset`: samples are written with their codes, block by block.

The folder of the cache:

- `claims/`: who does what, but for clips, whose claims are beside the index.
- `manifests/FINGERPRINT/`: see `SamplesTable`.
- `codes/CODEC/`: see `ClipIndex`.
- `prepared/FINGERPRINT/`: see `PreparedDataset`. In progress with a folder `blocks`.
- `audits/`: the audit of data sets together.

No process sends anything to another. A process that dies leaves whole files and claims that others take over.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from higgs_audio_trainer.data.manifest import read_samples
from higgs_audio_trainer.data.preparation import prepared_dataset, samples_table
from higgs_audio_trainer.data.preparation.assembly import assemble
from higgs_audio_trainer.data.preparation.audit import audit_of, audit_path, read_audit, store_audit
from higgs_audio_trainer.data.preparation.blocks import SampleRules, check_block, is_usable
from higgs_audio_trainer.data.preparation.claims import Claims
from higgs_audio_trainer.data.preparation.clip_index import ClipIndex
from higgs_audio_trainer.data.preparation.crew import Crew, CrewSettings
from higgs_audio_trainer.data.preparation.encoding import cache_error, encode_jobs
from higgs_audio_trainer.data.preparation.jobs import Job, JobsFile
from higgs_audio_trainer.data.preparation.notes import notes_on
from higgs_audio_trainer.data.preparation.places import Places
from higgs_audio_trainer.data.preparation.planned_dataset import PlannedDataset
from higgs_audio_trainer.data.preparation.prepared_dataset import PreparedDataset
from higgs_audio_trainer.data.preparation.progress import stage_progress
from higgs_audio_trainer.data.preparation.samples_table import BLOCK_SAMPLES, SamplesTable, digest_of, text_of
from higgs_audio_trainer.data.preparation.sharing import share
from higgs_audio_trainer.data.sample import Sample, unpacked
from higgs_audio_trainer.data.sources import Source
from higgs_audio_trainer.errors import InputProblem, ManifestError, UserError, listed
from higgs_audio_trainer.events import DatasetAudit, Stage
from higgs_audio_trainer.phases import phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 2  # of all files of the cache but the codes
_MOST_TRIES = 100
_since = time.time()  # this process began, or its last preparation ended: earlier problems may be gone


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Settings of a preparation.

    Attributes:
        folder: Folder of the cache.
        crew: Devices and number of the processes that encode.
        skip_bad_samples: Leave out samples with problems.
        say: Prints a message.
        audits_tokens: Whether the audit looks at the tokens of characters. Those of a tiny tokenizer say nothing of the
            texts.
        check_samples: Checks some samples of each block against the checkpoint. Raises UserError.
    """

    folder: Path
    crew: CrewSettings
    skip_bad_samples: bool
    say: Callable[[str], None]
    audits_tokens: bool = True
    check_samples: Callable[[Sequence[Sample]], None] = lambda _samples: None


class PreparedData(NamedTuple):
    """Prepared manifests.

    Attributes:
        datasets: Data set of each manifest.
        audit: Audit of all data sets together.
    """

    datasets: list[PreparedDataset]
    audit: DatasetAudit


def prepare(
    sources: Sequence[Source], rules_for: Callable[[bool], SampleRules], settings: PrepareSettings
) -> PreparedData:
    """Prepare manifests together with all other processes that do the same with this cache.

    Args:
        sources: Manifests.
        rules_for: Returns what samples must fit. Called with True if samples have audio.
        settings: Settings.

    Raises:
        ManifestError: There are problems, and `skip_bad_samples` is off.
        UserError: No sample is left, the codec is unusable, or the cache cannot be written.
    """
    global _since  # noqa: PLW0603 - the process's, as the cache is
    made = [folder for folder in (settings.folder, *settings.folder.parents) if not folder.exists()]
    try:
        with Claims(settings.folder / "claims") as claims:
            return _Preparation(settings, claims, _since).run(sources, rules_for)
    except OSError as error:
        raise cache_error(error, settings.folder) from error
    except UserError:
        if made and not _is_in_use(settings.folder):
            shutil.rmtree(settings.folder, ignore_errors=True)
            with suppress(OSError):  # another process wrote to a folder meanwhile
                for folder in made[1:]:
                    folder.rmdir()
        raise
    finally:
        _since = time.time()


def _is_in_use(cache: Path) -> bool:
    """Return True if a process works with the cache, or codes or a complete data set are in it."""
    complete = [folder for folder in cache.glob("prepared/*") if not (folder / "blocks").exists()]
    return any((cache / "claims").glob("*")) or (cache / "codes").exists() or bool(complete)


class _Preparation:
    def __init__(self, settings: PrepareSettings, claims: Claims, since: float) -> None:
        self._settings, self._claims, self._since = settings, claims, since
        self._index: ClipIndex | None = None
        self._encoded: dict[Path, int] = {}  # clips without codes at the beginning, by folder of the data set
        self._damaged: dict[str, Job] = {}  # clips whose codes in the cache are damaged

    def run(self, sources: Sequence[Source], rules_for: Callable[[bool], SampleRules]) -> PreparedData:
        with phase("reading"):
            tables = [self._table(source) for source in sources]
        rules = rules_for(any(table.has_audio for table in tables))
        plans = [self._plan(source, table, rules) for source, table in zip(sources, tables, strict=True)]
        waiting = [plan for plan in plans if not self._is_ready(plan)]
        if waiting:
            self._prepare(waiting, rules)
        found = [PreparedDataset(plan.folder, plan.table.name) for plan in plans]
        self._judge([problem for dataset in found for problem in dataset.problems])
        for dataset in found:
            self._tell(dataset)
        for dataset in found:
            if not len(dataset):
                lines = listed(dataset.problems)
                raise UserError("\n".join([*lines, "expected at least one sample without problems, got none"]))
        with phase("auditing the data"):
            return PreparedData(found, self._audit(found, rules.tokenizer))

    def _audit(self, datasets: Sequence[PreparedDataset], tokenizer: PreTrainedTokenizerBase) -> DatasetAudit:
        with_tokens = self._settings.audits_tokens
        path = audit_path(datasets, self._settings.folder, with_tokens=with_tokens)
        with suppress(OSError):  # a cache that others filled may be read-only
            share(
                [f"audit-{path.stem}"],
                self._claims,
                is_done=lambda _unit: read_audit(path) is not None,
                work=lambda _unit: store_audit(path, audit_of(datasets, tokenizer, with_tokens=with_tokens)),
                on_wait=lambda: self._settings.say("another process audits the data. Waiting"),
            )
        return read_audit(path) or audit_of(datasets, tokenizer, with_tokens=with_tokens)

    def _table(self, source: Source) -> SamplesTable:
        folder = self._settings.folder / "manifests" / _hash((_FORMAT, source.fingerprint))
        name, since = text_of(source.name), self._since

        def write(_unit: str) -> None:
            notes: list[str] = []
            problems: list[InputProblem] = []
            samples = read_samples(source, notes.append, problems.append)
            report = partial(self._report, "reading")
            samples_table.write(folder, name, samples, problems, notes, lambda done: report(done, done))

        def read(is_done: Callable[[Path, float], bool]) -> SamplesTable:
            with _read_only(lambda: samples_table.is_complete(folder, 0.0)):
                share(
                    [f"table-{folder.name}"],
                    self._claims,
                    is_done=lambda _unit: is_done(folder, since),
                    work=write,
                    on_wait=lambda: self._settings.say(f"{name}: another process reads the samples. Waiting"),
                )
            return SamplesTable(folder, name)

        table = read(samples_table.is_complete)
        if table.misses_files:  # recordings may have moved
            table = read(samples_table.is_new)
        for note in table.notes:
            self._settings.say(note)
        return table

    def _plan(self, source: Source, table: SamplesTable, rules: SampleRules) -> PlannedDataset:
        limits = rules.clips
        codec = rules.codec.fingerprint if rules.codec is not None and table.has_audio else None
        facts = (
            _FORMAT, source.fingerprint, digest_of(table.file_states), _tokenizer_fingerprint(rules.tokenizer),
            rules.family, limits.num_codebooks, limits.num_codes, limits.max_seconds, rules.max_length, codec,
        )  # fmt: skip
        return PlannedDataset(table, self._settings.folder / "prepared" / _hash(facts), rules, self._since)

    def _is_ready(self, plan: PlannedDataset) -> bool:
        """Return True for a complete data set. Discard a data set with damage or from an earlier state of the files."""
        with _read_only(lambda: plan.is_complete):
            share(
                [f"{plan.folder.name}-again"],
                self._claims,  # no process discards the new data set of another
                is_done=lambda _unit: not plan.is_complete or _is_good(plan),
                work=lambda _unit: prepared_dataset.discard(plan.folder),
            )
        return plan.is_complete

    def _prepare(self, plans: Sequence[PlannedDataset], rules: SampleRules) -> None:
        if rules.codec is None:
            self._fill(plans)
            return
        folder = self._settings.folder / "codes" / rules.codec.fingerprint
        with ClipIndex(folder, self._claims.name) as self._index:
            self._index.refresh()
            self._index.forget_faults()
            self._fill(plans)

    def _fill(self, plans: Sequence[PlannedDataset]) -> None:
        """Complete the data sets. Damaged files, and files that another process removed, are made again."""
        tries = 0
        while rest := [plan for plan in plans if not plan.is_complete]:
            try:
                self._fill_rest(rest)
            except FileNotFoundError:
                tries += 1
                if tries == _MOST_TRIES:
                    raise

    def _fill_rest(self, plans: Sequence[PlannedDataset]) -> None:
        with phase("checking"):
            for plan in plans:
                self._check(plan)
        self._judge([problem for plan in plans for problem in plan.problems()])
        while True:
            self._encode(plans)
            self._damaged.clear()
            with phase("writing"):
                for plan in plans:
                    self._assemble(plan)
            if not self._damaged:
                break
            for key in self._damaged:
                assert self._index is not None
                self._index.forget(key)
        for plan in plans:
            self._complete(plan)

    def _check(self, plan: PlannedDataset) -> None:
        def check(unit: str) -> None:
            samples = list(plan.table.block(plan.number(unit)))
            self._settings.check_samples(samples)
            plan.write_block(plan.number(unit), check_block(samples, plan.rules, self._index))

        share(
            plan.units("check"),
            self._claims,
            is_done=lambda unit: plan.is_complete or plan.is_checked(plan.number(unit)),
            work=check,
            after_each=lambda done: self._report_blocks("checking", done, plan),
        )

    def _encode(self, plans: Sequence[PlannedDataset]) -> None:
        index = self._index
        if index is None:
            return
        rules = plans[0].rules
        assert rules.codec is not None
        with JobsFile(self._jobs(plans, index), index.folder) as jobs:
            if not len(jobs):
                return
            with (
                phase("encoding", is_slow=True),
                Claims(index.folder / "claims") as claims,  # where the workers of the crew look
                Crew(self._settings.crew, str(rules.codec.folder), rules.clips, index, jobs) as crew,
            ):
                encode_jobs(jobs, index, claims, rules.codec, rules.clips, crew.after_each)

    def _jobs(self, plans: Sequence[PlannedDataset], index: ClipIndex) -> Iterator[Job]:
        """Yield the clips of all plans without codes, each once, and count the clips of each plan."""
        yield from self._damaged.values()
        seen = Places()
        for plan in plans:
            before = len(seen)
            for job in plan.jobs():
                key = bytes.fromhex(job.key)
                if job.key not in index and job.key not in self._damaged and key not in seen:
                    seen.set(key, 0)
                    yield job
            self._encoded.setdefault(plan.folder, len(seen) - before)

    def _assemble(self, plan: PlannedDataset) -> None:
        """Write the parts of a data set. Clips with damaged codes are noted, and encoded again."""

        def write(unit: str) -> None:
            number = plan.number(unit)
            block = plan.block(number)
            made = assemble(block, plan.rules, self._index)
            if made.damaged:
                self._damaged |= {job.key: job for job in made.damaged}
            else:
                plan.write_part(number, made.rows, block)

        share(
            plan.units("part"),
            self._claims,
            is_done=lambda unit: plan.is_complete or plan.is_written(plan.number(unit)),
            work=write,
            after_each=lambda done: self._report_blocks("writing", done, plan),
        )

    def _complete(self, plan: PlannedDataset) -> None:
        share(
            [f"{plan.folder.name}-end"],
            self._claims,
            is_done=lambda _unit: plan.is_complete,
            work=lambda _unit: plan.complete(),
        )

    def _report_blocks(self, stage: Stage, done: int, plan: PlannedDataset) -> None:
        total = plan.table.num_samples
        self._report(stage, min(total, done * BLOCK_SAMPLES), total)

    def _report(self, stage: Stage, done: int, total: int) -> None:
        self._settings.crew.report(stage_progress(stage, done, total))

    def _judge(self, problems: Sequence[InputProblem]) -> None:
        if problems and not self._settings.skip_bad_samples:
            raise ManifestError(list(dict.fromkeys(problems)))  # a manifest may be given for both purposes

    def _tell(self, dataset: PreparedDataset) -> None:
        """Print the number of encoded clips, and the notes on a data set."""
        if encoded := self._encoded.pop(dataset.folder, 0):
            clips = f"{encoded:,} clip{'' if encoded == 1 else 's'}"
            self._settings.say(f"{dataset.name}: encoded {clips} to {self._settings.folder}")
        for text in notes_on(dataset):
            self._settings.say(text)


@contextmanager
def _read_only(suffices: Callable[[], bool]) -> Iterator[None]:
    """Pass over an error of a read-only cache with sufficient content."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not suffices():
            raise


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    known = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return _hash((known, tokenizer.chat_template))


def _hash(facts: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _is_good(plan: PlannedDataset) -> bool:
    """Return True for a data set without damage whose unusable clips are still unusable."""
    dataset = prepared_dataset.open_undamaged(plan.folder, plan.table.name)
    return dataset is not None and not any(is_usable(unpacked(clip), plan.rules) for clip in dataset.retry)
