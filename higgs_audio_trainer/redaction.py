r"""Redaction of secrets in all output of a run, by the name of a setting, the shape of a text, or a known value.

A redacted word is a small loss and a leaked key a large one, so an ambiguous name counts as the name of a secret.
`[redacted]` replaces a secret. Three texts are not recognised: a user name without a password, as in `git@host:path`,
because a user name is no secret; a password with a `/` in a URL, because a URL needs `%2F`; a short value or a plain
word without a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

REDACTED = "[redacted]"
_Hide = Callable[[str], str]

# Names

_PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+")
_ENDING = re.compile(r"(?:_(?:\d+|b64|hash|header|value))+$")  # of `password_hash`, `HF_TOKEN_2`, ...
_SECRET = re.compile(
    r"(?:^|_)(?:pass|pwd|auth|authorization|bearer|cookies?|sas|sig|signature|dsn|jwt|creds|conn_str|connection_string)$"
    r"|(?:password|passwd|passphrase|passcode|secret|credential|token)s?$"
    r"|(?:api|access|account|auth|client|encryption|private|secret|session|shared|signing|ssh)_?keys?$|access_key_id$"
)
# Vocabulary tokens, token counts, and passes through a network.
_OF_TEXT = re.compile(
    r"(?:^|_)(?:forward|backward|num)_pass$|^tokens$|(?<!api)(?<!access)_tokens$"
    r"|(?:^|_)(?:pad|bos|eos|eot|unk|sep|cls|mask|stop|start|end|text|audio|image|codec|next|per|delay|special|stream"
    r"|placeholder|silence|predicted|label|input|target)_token$"
)


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return True if a setting, variable, header or parameter of this name holds a secret.

    Example:
        >>> [is_secret_name(name) for name in ("HF_TOKEN", "apiKey", "x-api-key", "pad_token", "lr")]
        [True, True, True, False, False]
    """
    plain = _ENDING.sub("", _PARTS.sub("_", name).strip("_").lower())
    return _SECRET.search(plain) is not None and _OF_TEXT.search(plain) is None


# Shapes of texts. Repetitions are possessive, bounded or disjoint, so that every text takes linear time.
# Alternatives are repeated in an atomic group, because `(?:a|b)*+` matches too much before Python 3.11.5 (gh-106052).

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----(?>(?:[^-]|-(?!----))*)"
    r"|(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)?"
    r"|(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}+|gh[opsur]_[A-Za-z0-9]{16,}+|github_pat_\w{16,}+|glpat-[\w-]{16,}+|xox[a-z]-[\w-]{10,}+"
    r"|sk-(?=[\w-]{0,64}[0-9])[\w-]{16,}+|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{35}|npm_[A-Za-z0-9]{30,}+|pypi-AgE[\w-]{16,}+)"
)
_BEARER = re.compile(r"(?<=\bbearer )(?=[\w.~+/-]{0,64}[0-9])[\w.~+/-]{8,}+=*+", re.IGNORECASE)
_URL_USER_INFO = re.compile(r"(?<=://)[^/?#\s\"'<>]*(?=@)")
_USER_INFO = re.compile(r"(?<![\w.+-])(?!mailto:)([A-Za-z][\w.+-]{0,63}+:)([^\s@/:\"'<>]{1,256}+)(?=@[\w\[])")
_URL_PARAMETER = re.compile(r"(?<=[?&])((?:key|code)=)([^&\s#\"'<>]++)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?<!\w)(?:"
    r"(?P<name>[A-Za-z_][\w.-]{0,127}+)(?:\\{0,4}+[\"'])?[ \t]{0,8}+(?:=(?!=)|:(?!//))[ \t]{0,8}+"
    r"|(?<=--)(?P<flag>[A-Za-z][\w-]{0,127}+)[ \t]{1,8}+(?!-)"
    r")(?!expected\b)"  # an error message of this package about a setting
)
_VALUE = re.compile(
    r"\\{1,4}[\"'](?P<escaped>[^\"'\\\n]*+)"
    r"|[bru]{0,2}(?P<quote>[\"'])(?P<quoted>(?>(?:\\.|(?!(?P=quote))[^\\\n])*))"
    r"|(?P<plain>(?:(?:bearer|basic|token|digest|negotiate)[ \t]{1,8})?[^\s,;&\"'<>]++)",
    re.IGNORECASE,
)
_COOKIES = re.compile(r"(?P<plain>[^\n\"'\\]++)")  # several cookies, separated by semicolons
_CODE = re.compile(r"\d{1,6}$|<|[A-Za-z_][\w.]*[(\[]")
_WORD = re.compile(r"[a-z]+[),.]*")
_NOTHING = frozenset({"", "none", "null", "true", "false"})


def _redact_text(text: str, hide: _Hide) -> str:
    """Return a free text without the parts that look like secrets."""
    text = _redact_named_values(text, hide)
    text = _SHAPES.sub(lambda match: hide(match[0]), text)
    text = _BEARER.sub(lambda match: hide(match[0]), text)
    text = _URL_USER_INFO.sub(lambda match: _redact_user_info(match[0], hide), text)
    text = _USER_INFO.sub(lambda match: match[1] + hide(match[2]), text)
    return _URL_PARAMETER.sub(lambda match: match[1] + hide(match[2]), text)


def _redact_user_info(text: str, hide: _Hide) -> str:
    password = text.partition(":")[2]
    hide(unquote(password or text))  # the form in error messages; the URL loses the user name too
    return hide(text)


def _redact_named_values(text: str, hide: _Hide) -> str:
    """Return a text without the values of secret names.

    The forms are `name=value`, `"name": "value"`, `--name value` and `Name: value`.
    """
    parts, done = [], 0
    for named in _NAMED.finditer(text):
        name = named["name"] or named["flag"]
        if named.start() < done or not is_secret_name(name):
            continue
        pattern = _COOKIES if name.lower().endswith(("cookie", "cookies")) else _VALUE
        value = pattern.match(text, named.end()) or _VALUE.match(text, named.end())
        if value is not None:
            kind = str(value.lastgroup)
            if not _is_harmless(value, kind, after=text[named.end() - 1]):
                parts += [text[done : value.start(kind)], hide(value[kind])]
                done = value.end(kind)
    return "".join([*parts, text[done:]])


def _is_harmless(value: re.Match[str], kind: str, *, after: str) -> bool:
    """Return True if the value of a secret name is no secret: empty, a token id, code, a word of a sentence."""
    if value[kind].rstrip(")]}").lower() in _NOTHING:
        return True
    return kind == "plain" and bool(_CODE.match(value[kind]) or (after == " " and _WORD.fullmatch(value[kind])))


# Settings

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")


def redacted(value: Any, name: str = "") -> Any:
    """Return a copy of settings as builtins, with `[redacted]` in place of secrets.

    Args:
        value: A setting, or a mapping or list of settings. Null, booleans and empty texts are no secrets.
        name: Name of the setting.

    Example:
        >>> redacted({"lr": 0.1, "hub_token": "hf_1", "url": "https://ann:pw@host/x"})
        {'lr': 0.1, 'hub_token': '[redacted]', 'url': 'https://[redacted]@host/x'}
    """
    return _redact_setting(value, name, lambda _: REDACTED)


def _redact_setting(value: Any, name: str, hide: _Hide) -> Any:
    if isinstance(value, Mapping):
        outer = name if is_secret_name(name) else ""
        return {
            _redact_text(str(key), hide): _redact_setting(item, outer or str(key), hide) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redact_setting(item, _flag_before(value, index) or name, hide) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value):
        return value
    if is_secret_name(name):
        return hide(str(value))
    return value if isinstance(value, (int, float)) else _redact_text(str(value), hide)


def _flag_before(items: Sequence[Any], index: int) -> str:
    """Return the secret flag before an item of a list of arguments, empty if there is no such flag."""
    before = items[index - 1] if index else None
    return before if isinstance(before, str) and _FLAG.fullmatch(before) and is_secret_name(before) else ""


# Known values

_SHORTEST = 8  # characters; shorter values also occur in the middle of words
_WORD_LIKE = re.compile(r"[a-z]{,11}")
_COMMON = frozenset({"default", "disabled", "enabled", "optional", "required", "password", "passwd", "secret"})
_LONG_LINE = 16
_DIRECTORIES = frozenset({"PWD", "OLDPWD"})  # named like a password, but part of every path


class Redactor:
    """Removal of secrets from messages: known secrets, and text that looks like a secret. Never raises.

    Announcements and error messages pass through a redactor. Training data never do.

    Args:
        settings: Settings. The values of secret names are known secrets.
        environment: Environment variables. The values of secret names are known secrets.

    Example:
        >>> redact = Redactor({"hub_token": "winter-2024"})
        >>> redact("login with winter-2024 failed; retry with api_key=a8f31c")
        'login with [redacted] failed; retry with api_key=[redacted]'
    """

    def __init__(self, settings: Any = None, environment: Mapping[str, str] | None = None) -> None:
        found: list[str] = []

        def collect(value: str) -> str:
            found.append(value)
            return REDACTED

        _redact_setting(settings, "", collect)
        variables = {name: value for name, value in (environment or {}).items() if name not in _DIRECTORIES}
        _redact_setting(variables, "", collect)
        values = {line for value in found for line in _value_and_lines(value) if _is_distinctive(line)}
        self._known = sorted(
            {form for value in values for form in _spellings(value)}, key=lambda form: (-len(form), form)
        )

    def __call__(self, text: str) -> str:
        """Return a text without secrets."""
        for form in self._known:
            text = text.replace(form, REDACTED)
        return _redact_text(text, lambda _: REDACTED)

    def hide_in(self, error: BaseException) -> None:
        """Remove secrets from the arguments of an error, and of the errors in its chain of causes."""
        seen: set[int] = set()
        following: BaseException | None = error
        while following is not None and id(following) not in seen:
            seen.add(id(following))
            with suppress(Exception):  # an error that refuses the change is raised unchanged
                following.args = tuple(self(part) if isinstance(part, str) else part for part in following.args)
            following = following.__cause__ or following.__context__


def _value_and_lines(value: str) -> Iterator[str]:
    yield value
    if "\n" in value:
        yield from (line for line in value.splitlines() if len(line) >= _LONG_LINE)


def _is_distinctive(value: str) -> bool:
    if len(value.strip()) < _SHORTEST or _WORD_LIKE.fullmatch(value):
        return False
    return value.lower() not in _COMMON and value not in REDACTED


def _spellings(value: str) -> Iterator[str]:
    """Yield the spellings of a value: plain, in a URL, in JSON and in Python's `repr`."""
    yield value
    yield quote(value, safe="", errors="surrogatepass")
    yield quote(value, errors="surrogatepass")
    yield quote_plus(value, errors="surrogatepass")
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
