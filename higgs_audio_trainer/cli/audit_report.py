"""The audit of the data for a person: lines of text, and a file of JSON."""

from __future__ import annotations

from pathlib import Path

import orjson

from higgs_audio_trainer.atomic_file import atomic_file, make_folder
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import DatasetAudit, to_mapping


def audit_text(audit: DatasetAudit, *, color: bool = False, width: int | None = None) -> str:
    """Return the text of an audit as on the console: statistics, and a line for each finding, errors first.

    Args:
        audit: The audit.
        color: Colour the severities.
        width: Columns of a line; None for lines of any length.

    Example:
        >>> audit_text(DatasetAudit(splits={}, findings=()))
        'data: no findings'
    """
    from sinks.rendering.record import render

    return render({"event": audit.name, **to_mapping(audit)}, color=color, width=width)


def write_audit(audit: DatasetAudit, path: Path) -> None:
    """Write the payload of the event `dataset_audit` as a JSON file.

    Raises:
        UserError: The file cannot be written.
    """
    content = orjson.dumps(to_mapping(audit), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is not replaced
            path.write_bytes(content)
            return
        make_folder(path.parent)
        with atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"--audit: {error.filename or path}: {error.strerror or error}. Name another file.") from error
