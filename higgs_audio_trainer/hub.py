"""Models and data sets by their name on the Hugging Face Hub: whether a name can be fetched, and the reason if not.

All commands ask here before they let a library fetch anything, since libraries repeat a request for half a minute, and
since their errors name no flag. A copy in the cache is used if the Hub cannot be reached.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from higgs_audio_trainer.errors import UserError, one_line

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_CONFIG = "config.json"
_TIMEOUT_S = 10.0
_PAUSES_S = (0.0, 1.0, 2.0)  # before each request
_NOT_FOUND, _SERVER_ERROR = 404, 500
_OF_STATUS = {
    401: "{host} refused the token (401). Log in again with: hf auth login, or correct HF_TOKEN",
    403: "{host} refused access (403). See what {page} asks for, or use a token with access: hf auth login",
    429: "{host} gets too many requests from here (429). Wait some minutes, or log in with: hf auth login",
}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_KINDS = {"model": "model", "dataset": "data set"}
#: Reason for the offline mode of this process; empty while online. A global, as in `huggingface_hub`.
_why_offline = ""


def is_folder(name: str) -> bool:
    """Return True for the path of a folder. A name that is too long for a path is none.

    Example:
        >>> is_folder("."), is_folder("x" * 300)
        (True, False)
    """
    return os.path.isdir(name)  # noqa: PTH112 - a Path raises for a name that is too long


def check_name(name: str, flag: str) -> None:
    """Check that a model is a folder, or may be a name on the Hub. No network is asked.

    Args:
        name: Folder, or name on the Hub.
        flag: Flag that names the model, for messages.

    Raises:
        UserError: The name is the path of a file, or of no folder.

    Example:
        >>> check_name("bosonai/higgs-audio-v2-generation-3B-base", "--base_ckpt")
        >>> check_name("./no/such/folder", "--base_ckpt")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        higgs_audio_trainer.errors.UserError: --base_ckpt: expected a folder or a name on the Hugging Face Hub, got ...
    """
    if is_folder(name):
        return
    path = Path(name)
    if os.path.lexists(name):
        raise UserError(f"{flag} {name}: expected the folder of a model, got a file. Name the folder.")
    if not _is_repository(name):
        there = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
        raise UserError(
            f"{flag}: expected a folder or a name on the Hugging Face Hub, got {name!r}: there is no such folder; "
            f"{there} exists. Check the path."
        )


def reach(name: str, flag: str, kind: str = "model") -> None:
    """Check that a model or data set can be fetched from the Hub or its cache. A folder needs no check.

    If the Hub cannot be reached, this process asks the Hub for nothing more and uses the copy in the cache.

    Args:
        name: Folder, or name on the Hub.
        flag: Flag that names the model, for messages.
        kind: "model" or "dataset".

    Raises:
        UserError: There is no such folder or name, its licence has to be accepted, or the Hub cannot be reached.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    check_name(name, flag)
    if is_folder(name):
        return
    is_cached = kind == "model" and _is_cached(name)
    for pause_s in _PAUSES_S[:1] if is_cached else _PAUSES_S:
        time.sleep(pause_s)
        error = _asked(name, kind)
        if error is None or not _is_unreachable(error) or HF_HUB_OFFLINE:
            break
    if error is None or (is_cached and not _is_unreachable(error)):
        return
    if _is_unreachable(error) and (is_cached or kind == "dataset"):  # `datasets` has a cache of its own
        _go_offline(error)
    elif (known := hub_error(error, flag, name, kind)) is not None:
        raise known from error


def hub_error(error: BaseException, flag: str, name: str, kind: str = "model") -> UserError | None:
    """Return the error for a failure of the Hub somewhere in the causes of an error. None for other errors.

    Args:
        error: Error of a library that fetches files.
        flag: Flag that names the model, for messages.
        name: Name on the Hub.
        kind: "model" or "dataset".
    """
    if is_folder(name):
        return None
    for cause in _causes(error):
        if (reason := _reason(cause, name, kind)) is not None:
            where = flag if name in flag else f"{flag} {name}"  # the name of a data set is its own place
            return UserError(f"{where}: {reason}")
    return None


def _reason(error: BaseException, name: str, kind: str) -> str | None:
    """Return the reason of a failure of the Hub, and advice. None for another error."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return _reason_of_answer(error, name, kind)
    noun = _KINDS[kind]
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)) and not _why_offline:
        return (
            f"expected a folder, or a {noun} in the cache {HF_HUB_CACHE}, got neither, and HF_HUB_OFFLINE forbids "
            f"requests to the Hub. Unset HF_HUB_OFFLINE, or run with a network: hf download {_download_of(name, kind)}"
        )
    if _is_unreachable(error) or isinstance(error, LocalEntryNotFoundError):
        return (
            f"expected a folder or a {noun} on the Hub, got no such folder here, no complete copy in the cache "
            f"{HF_HUB_CACHE}, and no answer: {_why_offline or _words(error)}. Check the network or HTTPS_PROXY, or "
            "name a folder."
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        place = error.filename or HF_HUB_CACHE
        return f"the download failed: {place}: {error.strerror}. Free space, or set HF_HOME to another folder."
    return None


def _reason_of_answer(error: HfHubHTTPError, name: str, kind: str) -> str | None:
    """Return the meaning of an answer of the Hub, and advice. None for a missing file, which callers explain."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    host, noun = _host(), _KINDS[kind]
    page = f"{_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"
    status = 0 if error.response is None else error.response.status_code
    if isinstance(error, GatedRepoError):
        return (
            f"expected access, but its authors ask everybody to accept their terms first. Accept them at {page}, then "
            "log in with: hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{host} has the {noun}, but not this revision. Look at {page}"
    if isinstance(error, RepositoryNotFoundError) or (
        status == _NOT_FOUND and not isinstance(error, EntryNotFoundError)
    ):
        return (
            f"expected a folder or a {noun} on the Hub, got no such folder here, and no {noun} of this name on {host}, "
            "or a private one. Check the spelling; for a private one, log in with: hf auth login"
        )
    if status >= _SERVER_ERROR:
        return f"{host} has a fault of its own ({status}). Try again later, or name a folder."
    return _OF_STATUS[status].format(host=host, page=page) if status in _OF_STATUS else None


def _asked(name: str, kind: str) -> Exception | None:
    """Ask the Hub for the head of one file, once, and return the error. None if the Hub has the repository."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(name, _CONFIG, repo_type=kind), timeout=_TIMEOUT_S)
    except EntryNotFoundError:  # the repository is there, without this file
        return None
    except Exception as error:  # noqa: BLE001 - of httpx, whose name depends on the version; told by the caller
        return error
    return None


def _go_offline(error: BaseException) -> None:
    """Let this process and its children use the cache alone."""
    global _why_offline  # noqa: PLW0603 - as its comment explains
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    _why_offline = _words(error)
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).warning("%s. Files in the cache are used.", _why_offline)


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, _CONFIG), str)


def _is_repository(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, and not exported

    with suppress(HFValidationError):
        validate_repo_id(name)
        return True
    return False


def _is_unreachable(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError) or hasattr(error, "response"):  # an answer, if not the wanted one
        return False
    is_of_network = type(error).__module__.startswith("httpx")  # or httpx2, with the version of huggingface_hub
    return is_of_network or isinstance(error, (OfflineModeIsEnabled, ConnectionError, TimeoutError))


def _download_of(name: str, kind: str) -> str:
    return f"{name} --repo-type dataset" if kind == "dataset" else name


def _words(error: BaseException) -> str:
    """Return why the Hub was not reached.

    Example:
        >>> _words(ConnectionError("[Errno -2] Name or service not known"))
        'huggingface.co cannot be reached (Name or service not known)'
    """
    reason = one_line(error).rpartition("] ")[2]
    return f"{_host()} cannot be reached ({reason})"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _host() -> str:
    return urlsplit(_endpoint()).netloc


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, the first cause first."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    yield from reversed(found)
