"""Command `manifest SOURCE -o FILE`. Writes a manifest of samples in any form."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from higgs_audio_trainer.atomic_file import check_writable
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, add_switch
from higgs_audio_trainer.cli.column_flags import add_column_flags, columns_of
from higgs_audio_trainer.cli.limits_flag import add_no_limits
from higgs_audio_trainer.errors import ManifestError, ProblemList, UserError
from higgs_audio_trainer.phases import aside, phase
from sinks.terminal.words import count_of

if TYPE_CHECKING:
    from higgs_audio_trainer.data.draft import Draft

_NO_JSON_LINES = (".gz", ".zst", ".csv", ".tsv", ".parquet", ".json")
_MOST_NAMES = 5
_PIECE = 2**20
_REPORTED = 100  # samples between two reports of progress


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage=f"{prog} SOURCE -o FILE [flags]",
        description="Write a manifest of SOURCE: JSON Lines, CSV, TSV, LJSpeech, VITS list, folder of recordings with "
        "texts, Kaldi folder, Parquet, hf:FOLDER or hf:OWNER/NAME:SPLIT.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=30),
        epilog=f"example: {prog} LJSpeech-1.1 -o train.jsonl --eval 5%",
    )
    made.add_argument("source", metavar="SOURCE", help="file, folder or data set")
    made.add_argument("-o", "--output", metavar="FILE", required=True, help="manifest to write")
    made.add_argument("--eval", metavar="N|N%", help="number or share of samples for an evaluation")
    made.add_argument("--eval_output", metavar="FILE", help="manifest of the evaluation [FILE.eval.jsonl]")
    made.add_argument("--pair_references", action="store_true", help="give each sample a reference of the same speaker")
    made.add_argument("--speaker", metavar="NAME", help="speaker of samples without a speaker")
    add_column_flags(made)
    made.add_argument("--seed", metavar="N", type=int, default=42, help="seed of the random choices [%(default)s]")
    add_switch(made, "--skip_bad_samples", "leave out samples with problems")
    made.add_argument("--force", action="store_true", help="replace existing manifests")
    add_no_limits(made, is_listed=False)  # the help fits a screen, and messages name the flag
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Write manifests and return the exit status.

    Raises:
        UserError: The source has problems, cannot be divided or has no speakers, or another manifest exists.
    """
    given = parser(prog).parse_args(arguments)
    from higgs_audio_trainer.data.draft import Draft
    from higgs_audio_trainer.data.manifest import read_samples
    from higgs_audio_trainer.data.sources import open_source
    from higgs_audio_trainer.data.split import check_size

    output, eval_output = _outputs(given)
    if given.eval is not None:
        check_size(given.eval)
    if given.speaker is not None and not (given.speaker.strip() and given.speaker.isprintable()):
        raise UserError(f"--speaker: expected the name of a speaker, got {given.speaker!r}")
    audio_folder = output.with_name(f"{output.stem}_audio")
    source = open_source(given.source, columns_of(given), audio_folder=audio_folder)
    problems = ProblemList()
    draft = Draft(output.parent, speaker=given.speaker, compares=given.eval is not None or given.pair_references)
    with phase(f"reading {source.name}") as reading:
        for number, sample in enumerate(read_samples(source, _say, problems.add), start=1):
            draft.add(sample)
            if number % _REPORTED == 0:
                reading.detail = f"{number:,} samples"
    if problems.count and not given.skip_bad_samples:
        raise ManifestError(problems)
    if not len(draft):
        raise UserError("\n".join([*problems.lines(), "expected at least one sample without problems, got none"]))
    if problems.count:
        print(*problems.lines(), sep="\n")
        print(f"{source.name}: skipped {problems.num_places:,} of {problems.num_places + len(draft):,} samples, above")
    print(f"{source.name}: {count_of(len(draft), 'sample')}, {count_of(len(draft.speaker_names), 'speaker')}")
    parts = _divide(draft, given.eval, given.seed)
    references = _references(draft, parts, given.seed) if given.pair_references else ()
    names = [(output, 0), *([(eval_output, 1)] if given.eval is not None else [])]
    _write([(path, draft.lines(_of_part(parts, part), references)) for path, part in names], force=given.force)
    for path, part in names:
        print(f"{path}: {count_of(parts.count(part), 'sample')}")
    flags = [f"--{('train', 'eval')[part]}_manifest {shlex.quote(str(path))}" for path, part in names]
    print(f"next: higgs-audio-trainer prepare {' '.join(flags)}")
    return 0


def _say(text: str) -> None:
    with aside():
        print(text)


def _outputs(given: argparse.Namespace) -> tuple[Path, Path]:
    """Return the paths of the manifests for training and evaluation."""
    if given.eval_output and given.eval is None:
        raise UserError("--eval_output: expected --eval with the size of the evaluation too, such as --eval 5%")
    output = _output("-o", Path(given.output))
    eval_output = Path(given.eval_output) if given.eval_output else output.with_name(f"{output.stem}.eval.jsonl")
    if output.resolve() == _output("--eval_output", eval_output).resolve():
        raise UserError(f"--eval_output: expected another file than {output}")
    return output, eval_output


def _output(flag: str, path: Path) -> Path:
    """Return a path for a manifest, checked."""
    if path.suffix in _NO_JSON_LINES:
        raise UserError(f"{path}: expected the name of a file in JSON Lines, such as train.jsonl")
    try:
        if path.is_dir() or not path.name:
            raise UserError(f"{path}: expected a file, got a folder. Name a file with {flag}, such as train.jsonl")
        if str(path) == "-" or (path.exists() and not path.is_file()):
            raise UserError(f"{path}: expected a file, got a device or a pipe. Name a file with {flag}")
        check_writable(path.parent)
    except OSError as error:  # also a name that is too long
        raise UserError(f"{error.filename or path}: {error.strerror}. Name another file with {flag}.") from error
    return path


def _divide(draft: Draft, size: str | None, seed: int) -> bytearray:
    """Return the part of each sample: 0 for training, 1 for evaluation."""
    if size is None:
        return bytearray(len(draft))
    from higgs_audio_trainer.data.split import eval_count, evaluated

    groups = draft.groups()
    chosen = evaluated(groups, eval_count(size, len(draft)), seed)
    return bytearray(group in chosen for group in groups)


def _references(draft: Draft, parts: bytearray, seed: int) -> Sequence[int]:
    """Return the reference of each sample, and print the numbers without a reference."""
    from higgs_audio_trainer.data.references import NONE, paired

    if not draft.speaker_names:
        raise UserError(
            "--pair_references: expected samples with a speaker, got none. Name the column with --speaker_column, or "
            "the speaker of all samples with --speaker."
        )
    references = paired(draft.speakers, parts, draft.groups(), draft.usable, seed)
    wanting = [index for index in range(len(draft)) if draft.wants_reference[index]]
    without = [draft.speakers[index] for index in wanting if references[index] == NONE]
    left_out = sorted({draft.speaker_names[speaker] for speaker in without if speaker != NONE})
    if left_out:
        names = ", ".join(left_out[:_MOST_NAMES]) + (", ..." if len(left_out) > _MOST_NAMES else "")
        num = len(without) - without.count(NONE)
        print(
            f"no reference for {count_of(num, 'sample')} without another recording of the speaker in its part: {names}"
        )
    if unknown := without.count(NONE):
        print(f"no reference for {count_of(unknown, 'sample')} without a speaker")
    print(f"references added to {len(wanting) - len(without):,} of {count_of(len(draft), 'sample')}")
    return references


def _of_part(parts: bytearray, part: int) -> Iterator[int]:
    return (index for index, found in enumerate(parts) if found == part)


def _write(manifests: Sequence[tuple[Path, Iterator[bytes]]], *, force: bool) -> None:
    """Write manifests, all or none.

    Raises:
        UserError: Another file of such a name exists and `force` is off, or a file cannot be written.
    """
    from higgs_audio_trainer.atomic_file import atomic_file, make_folder

    try:
        with ExitStack() as stack:
            for path, lines in manifests:
                make_folder(path.parent)
                file = stack.enter_context(atomic_file(path))
                file.writelines(lines)
                file.seek(0)
                if not force and path.exists() and not _is_content_of(path, file):
                    raise UserError(f"{path}: exists with other samples. Pass --force to replace the file")
    except OSError as error:
        raise UserError(f"{error.filename or manifests[0][0]}: {error.strerror}. Name another file with -o.") from error


def _is_content_of(path: Path, file: IO[bytes]) -> bool:
    with path.open("rb") as other:
        while (piece := file.read(_PIECE)) == other.read(_PIECE):
            if not piece:
                return True
    return False
