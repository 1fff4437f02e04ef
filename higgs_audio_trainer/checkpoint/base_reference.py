"""Name and licence of the base checkpoint, for model cards. The name is of the Hub or of a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, and not exported

_HUB = "https://huggingface.co/"
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # folder of a repository in the cache of the Hub
_FIELDS = ("license", "license_name", "license_link")
_LICENCE_FILE = "LICENSE"
#: Identifiers that the Hub accepts, https://huggingface.co/docs/hub/repositories-licenses. It refuses others.
_LICENCES = frozenset(
    (
        *("afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m"),
        *("bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
        *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0"),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m"),
        *("deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2"),
        *("fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research"),
        *("intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1"),
        *("llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by"),
        *("ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown"),
        *("unlicense", "wtfpl", "zlib"),
    )
)
#: Licences of checkpoints whose cards say "other" alone, by the beginning of their name on the Hub.
_OF_HIGGS = {
    re.compile(r"bosonai/higgs-(audio-v2|tts-2)-"): "boson-higgs-audio-2-community-license",
    re.compile(r"bosonai/higgs-(audio-v3|tts-3)-"): "research-and-non-commercial",
}


@dataclass(frozen=True, slots=True)
class BaseReference:
    """Public name and licence of a base checkpoint.

    Attributes:
        name: Name without owner, or name of the folder.
        hub_id: Name on the Hub; None for a folder.
        licence: `license`, `license_name` and `license_link` of the metadata on the Hub, as far as known.
    """

    name: str
    hub_id: str | None
    licence: Mapping[str, str]

    @property
    def link(self) -> str:
        """Markdown that names the base checkpoint."""
        return f"`{self.name}`" if self.hub_id is None else f"[{self.hub_id}]({_HUB}{self.hub_id})"

    def licence_in_words(self) -> str:
        """Return a sentence in Markdown.

        Example:
            >>> BaseReference("model", None, {"license": "apache-2.0"}).licence_in_words()
            'The licence of the base checkpoint applies: apache-2.0.'
        """
        name = self.licence.get("license_name") or self.licence.get("license")
        if name is None:
            return f"The licence of the base checkpoint applies. {self.link} names none."
        link = self.licence.get("license_link")
        return f"The licence of the base checkpoint applies: {name if link is None else f'[{name}]({link})'}."


def reference_to(base_ckpt: str) -> BaseReference:
    """Return the reference to a base checkpoint.

    A folder in the cache of the Hub has the name of its repository. Of any other folder, the last part of the path is
    the name, since a card is public and a path is not.

    Args:
        base_ckpt: Folder, or name on the Hub.

    Example:
        >>> reference_to("bosonai/higgs-audio-v2-generation-3B-base").licence["license_name"]
        'boson-higgs-audio-2-community-license'
        >>> reference_to("/home/ann/hub/models--owner--base/snapshots/0a1b").hub_id
        'owner/base'
    """
    hub_id = _hub_id(base_ckpt)
    name = Path(base_ckpt).absolute().name if hub_id is None else hub_id.rpartition("/")[2]
    licence = _licence_of(base_ckpt, hub_id)
    known = next((licence for begin, licence in _OF_HIGGS.items() if hub_id is not None and begin.match(hub_id)), None)
    if known is not None:
        link = f"{_HUB}{hub_id}/blob/main/{_LICENCE_FILE}"
        licence = {"license": "other", "license_name": known, "license_link": link} | licence
    return BaseReference(name, hub_id, licence)


def _hub_id(base_ckpt: str) -> str | None:
    parts = Path(base_ckpt).parts
    cached = next((match for part in reversed(parts) if (match := _CACHED.fullmatch(part))), None)
    if cached is not None:
        return f"{cached[1]}/{cached[2]}"
    if Path(base_ckpt).exists():
        return None
    with suppress(HFValidationError):
        validate_repo_id(base_ckpt)
        return base_ckpt
    return None


def _licence_of(base_ckpt: str, hub_id: str | None) -> dict[str, str]:
    """Return the licence in the metadata of a base checkpoint's own card. Empty without a card."""
    from transformers.utils.hub import cached_file

    data: dict[str, Any] = {}
    with suppress(OSError, ValueError, yaml.YAMLError):
        path = cached_file(
            base_ckpt,
            "README.md",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            card = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True)
            data = card.data.to_dict()
    found = {name: data[name] for name in _FIELDS if isinstance(data.get(name), str)}
    if (licence := found.get("license")) is not None and licence not in _LICENCES:
        found = {"license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")} | found | {"license": "other"}
    link = found.pop("license_link", None)
    if link is not None and link.startswith("https://"):
        found["license_link"] = link
    elif link is not None and hub_id is not None:
        found["license_link"] = f"{_HUB}{hub_id}/blob/main/{link}"
    return found
