"""The form of a source, recognized by the name, the files and the first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from higgs_audio_trainer.config import expanded
from higgs_audio_trainer.data.file_kind import LINES_WITHOUT_JSON, kind_of_text
from higgs_audio_trainer.data.media_path import local_path
from higgs_audio_trainer.data.sources.audio_folder import AudioFolder
from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.json_lines import JsonLines
from higgs_audio_trainer.data.sources.kaldi import KaldiFolder
from higgs_audio_trainer.data.sources.recordings import RecordingFinder
from higgs_audio_trainer.data.sources.source import Source
from higgs_audio_trainer.data.sources.table import Table
from higgs_audio_trainer.data.sources.table_layout import layout_of
from higgs_audio_trainer.data.sources.text_file import TextFile
from higgs_audio_trainer.errors import UserError

_NO_COLUMNS = Columns()
_STDIN = "/dev/stdin"
#: Files that hold the samples of a folder, in the order of preference.
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.txt", "manifest.jsonl")
_ON_HUB = re.compile(r"[\w.\-]+/[\w.\-]+(:[\w.\-]+){1,2}")
_KALDI_FILES = ("wav.scp", "utt2spk", "segments")


def open_source(name: str | Path, columns: Columns = _NO_COLUMNS, *, audio_folder: Path | None = None) -> Source:
    """Return the source of a name.

    Args:
        name: File in JSON Lines, table, Parquet file or pattern of such files, folder, or data set of Hugging Face:
            `hf:FOLDER`, `hf:FOLDER:SPLIT` or `hf:OWNER/NAME:SPLIT`. `-` is a manifest or a table from standard input.
        columns: Names of the columns with texts, recordings and speakers.
        audio_folder: Folder for recordings that are given as bytes, which are written to files named by their content.
            None where such recordings are refused.

    Raises:
        UserError: There is no such source, its form is not known, or it lacks texts or recordings.
    """
    name = _STDIN if str(name) == "-" else str(name)
    if not name.removeprefix("hf:").strip():
        raise UserError(f"expected the name of a file, a folder or a data set as the source, got {name!r}")
    given = expanded(_local(name.removeprefix("hf:")), name)
    path, split = _path_and_split(given)
    if path.is_dir():
        return _open_folder(name, path, split, columns, audio_folder)
    if name.startswith("hf:") or (not path.exists() and _ON_HUB.fullmatch(name)):
        if path.is_file():
            return open_source(path, columns, audio_folder=audio_folder)
        from higgs_audio_trainer.data.sources.hugging_face import hub_rows

        return hub_rows(name, columns, audio_folder)
    if not path.exists() and any(letter in given for letter in "*?["):
        from higgs_audio_trainer.data.sources.hugging_face import matching, parquet_rows

        return parquet_rows(name, matching(given), columns, audio_folder)
    return _open_file(name, Path(given), columns, audio_folder)


def check_local(name: str, columns: Columns = _NO_COLUMNS) -> None:
    """Check that a source on this machine exists, and that a file has a known form. No network is asked.

    A folder is not looked into, since its recordings may be many, nor is a pipe, which can be read once.

    Args:
        name: Name of a source, see `open_source`.
        columns: Names of the columns with texts, recordings and speakers.

    Raises:
        UserError: There is no such source, or its form is not known.
    """
    path, _ = _path_and_split(expanded(_local(name.removeprefix("hf:")), name))
    is_file = path.is_file() or not path.exists()
    if name != "-" and is_file and not _is_on_hub(name, path):
        open_source(name, columns, audio_folder=path.parent)


def _is_on_hub(name: str, path: Path) -> bool:
    return not path.exists() and (name.startswith("hf:") or _ON_HUB.fullmatch(name) is not None)


def _local(name: str) -> str:
    """Return the path of a URL `file:///...`, and any other name unchanged."""
    try:
        return local_path(name)
    except ValueError as error:
        raise UserError(f"{name}: expected the name of a source, got no URL ({error})") from error


def _path_and_split(given: str) -> tuple[Path, str | None]:
    """Return the folder and the split of `FOLDER:SPLIT`, or the path alone."""
    folder, colon, split = given.rpartition(":")
    if colon and not Path(given).exists() and Path(folder).is_dir():
        return Path(folder), split
    return Path(given), None


def _open_folder(name: str, folder: Path, split: str | None, columns: Columns, audio_folder: Path | None) -> Source:
    if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        from higgs_audio_trainer.data.sources.hugging_face import saved_rows

        return saved_rows(name, folder, split, columns, audio_folder)
    if any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
        from higgs_audio_trainer.data.sources.hugging_face import of_split, parquet_rows

        return parquet_rows(name, of_split(name, folder, split), columns, audio_folder)
    if split is not None:
        raise _wrong_folder(name, folder) or UserError(
            f"{name}: expected a data set with splits, got a folder without. Name {folder}"
        )
    if (folder / "wav.scp").is_file():
        return KaldiFolder(folder)
    for file in _METADATA:
        if (folder / file).is_file():
            return _open_file(str(folder / file), folder / file, columns, audio_folder)
    try:
        return AudioFolder(folder)
    except UserError as error:
        raise _wrong_folder(name, folder) or error from None


def _wrong_folder(name: str, folder: Path) -> UserError | None:
    """Return the error of a folder with configurations of a data set, each in a folder of Parquet files. Else None."""
    names = sorted({path.parent.name for path in folder.glob("*/*.parquet")})
    if not names:
        return None
    return UserError(
        f"{name}: expected a folder of Parquet files, got the folders {', '.join(names)} with such files. "
        f"Name one of these: {folder / names[0]}"
    )


def _open_file(name: str, path: Path, columns: Columns, audio_folder: Path | None) -> Source:
    text = TextFile(path)
    if path.suffix == ".parquet" or text.start.startswith(b"PAR1"):
        from higgs_audio_trainer.data.sources.hugging_face import parquet_rows

        return parquet_rows(name, [path], columns, audio_folder)
    if path.name in _KALDI_FILES or (path.name == "text" and (path.parent / "wav.scp").is_file()):
        raise UserError(f"{name}: expected a manifest, got a file of Kaldi. Name its folder: {path.parent}")
    lines = text.head_lines()
    kind = kind_of_text(lines, text.whole)
    if kind == LINES_WITHOUT_JSON:
        finder = RecordingFinder(text.folder)
        if layout := layout_of(lines, columns, finder, name):
            return Table(text, columns, layout, finder)
    if kind:
        raise UserError(f"{name}: expected a manifest in JSON Lines, got {kind}")
    return JsonLines(text, columns)
