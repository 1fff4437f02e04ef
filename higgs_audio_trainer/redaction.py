r"""Secrets kept out of what a run writes: by the name of a setting, by the shape of a text, by a known value.

Too much hidden costs a word, too little costs a key: where a name may be either, it is taken for a secret's. What is
hidden reads `[redacted]`. Not recognised: a user name without a password, as in `git@host:path`, which is none; a
password with a `/` in a URL, which must be written `%2F` there; a value on its own that is short or a word.
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
# Tokens of a vocabulary and counts of them, and passes through a network.
_OF_TEXT = re.compile(
    r"(?:^|_)(?:forward|backward|num)_pass$|^tokens$|(?<!api)(?<!access)_tokens$"
    r"|(?:^|_)(?:pad|bos|eos|eot|unk|sep|cls|mask|stop|start|end|text|audio|image|codec|next|per|delay|special|stream"
    r"|placeholder|silence|predicted|label|input|target)_token$"
)


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Tell whether a setting, variable, header or parameter of this name holds a secret, in any style of writing."""
    plain = _ENDING.sub("", _PARTS.sub("_", name).strip("_").lower())
    return _SECRET.search(plain) is not None and _OF_TEXT.search(plain) is None


# Shapes of texts. Repetitions are possessive, bounded or disjoint, so that no text takes more than linear time.
# Alternatives are repeated in an atomic group: Python before 3.11.5 takes too much by `(?:a|b)*+` (gh-106052).

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
    r")(?!expected\b)"  # our own words for a wrong value of a setting
)
_VALUE = re.compile(
    r"\\{1,4}[\"'](?P<escaped>[^\"'\\\n]*+)"
    r"|[bru]{0,2}(?P<quote>[\"'])(?P<quoted>(?>(?:\\.|(?!(?P=quote))[^\\\n])*))"
    r"|(?P<plain>(?:(?:bearer|basic|token|digest|negotiate)[ \t]{1,8})?[^\s,;&\"'<>]++)",
    re.IGNORECASE,
)
_COOKIES = re.compile(r"(?P<plain>[^\n\"'\\]++)")  # several, parted by semicolons
_CODE = re.compile(r"\d{1,6}$|<|[A-Za-z_][\w.]*[(\[]")
_WORD = re.compile(r"[a-z]+[),.]*")
_NOTHING = frozenset({"", "none", "null", "true", "false"})


def _hidden_in(text: str, hide: _Hide) -> str:
    """Hide what looks like a secret in a free text."""
    text = _hidden_values(text, hide)
    text = _SHAPES.sub(lambda match: hide(match[0]), text)
    text = _BEARER.sub(lambda match: hide(match[0]), text)
    text = _URL_USER_INFO.sub(lambda match: _hidden_user_info(match[0], hide), text)
    text = _USER_INFO.sub(lambda match: match[1] + hide(match[2]), text)
    return _URL_PARAMETER.sub(lambda match: match[1] + hide(match[2]), text)


def _hidden_user_info(text: str, hide: _Hide) -> str:
    password = text.partition(":")[2]
    hide(unquote(password or text))  # what an error says of it; the URL itself loses the user name as well
    return hide(text)


def _hidden_values(text: str, hide: _Hide) -> str:
    """Hide the value beside each secret name: `name=value`, `"name": "value"`, `--name value`, `Name: value`."""
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
    """Tell whether what stands beside a secret's name is none: nothing, a token's id, code, a word of a sentence."""
    if value[kind].rstrip(")]}").lower() in _NOTHING:
        return True
    return kind == "plain" and bool(_CODE.match(value[kind]) or (after == " " and _WORD.fullmatch(value[kind])))


# Settings

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")


def redacted(value: Any, name: str = "") -> Any:
    """Copy settings as builtins, with secrets replaced by `[redacted]`.

    Args:
        value: a setting, or a mapping or list of them. Null, booleans and empty texts are no secrets.
        name: the setting's name.
    """
    return _walked(value, name, lambda _: REDACTED)


def _walked(value: Any, name: str, hide: _Hide) -> Any:
    if isinstance(value, Mapping):
        outer = name if is_secret_name(name) else ""
        return {_hidden_in(str(key), hide): _walked(item, outer or str(key), hide) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_walked(item, _flag_before(value, index) or name, hide) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value):
        return value
    if is_secret_name(name):
        return hide(str(value))
    return value if isinstance(value, (int, float)) else _hidden_in(str(value), hide)


def _flag_before(items: Sequence[Any], index: int) -> str:
    """Name the secret flag whose value this item of a list of arguments is, if it is one."""
    before = items[index - 1] if index else None
    return before if isinstance(before, str) and _FLAG.fullmatch(before) and is_secret_name(before) else ""


# Known values

_SHORTEST = 8  # characters; a shorter value would be found in the middle of words
_WORD_LIKE = re.compile(r"[a-z]{,11}")
_COMMON = frozenset({"default", "disabled", "enabled", "optional", "required", "password", "passwd", "secret"})
_LONG_LINE = 16
_DIRECTORIES = frozenset({"PWD", "OLDPWD"})  # named like a password, and in every path


class Redactor:
    """Hides, in a text for people, secrets that are known and what looks like one. Never raises.

    For announcements and error texts; training data never pass through it.

    Args:
        settings: settings whose secrets are hidden wherever they stand.
        environment: variables; those with secret names likewise.
    """

    def __init__(self, settings: Any = None, environment: Mapping[str, str] | None = None) -> None:
        found: list[str] = []

        def collect(value: str) -> str:
            found.append(value)
            return REDACTED

        _walked(settings, "", collect)
        variables = {name: value for name, value in (environment or {}).items() if name not in _DIRECTORIES}
        _walked(variables, "", collect)
        values = {line for value in found for line in _lines(value) if _is_telling(line)}
        self._forms = sorted({form for value in values for form in _forms(value)}, key=lambda form: (-len(form), form))

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for form in self._forms:
            text = text.replace(form, REDACTED)
        return _hidden_in(text, lambda _: REDACTED)

    def hide_in(self, error: BaseException) -> None:
        """Hide secrets in what an error says, and in the errors that it came from."""
        seen: set[int] = set()
        following: BaseException | None = error
        while following is not None and id(following) not in seen:
            seen.add(id(following))
            with suppress(Exception):  # an error that cannot be changed is still the one to be raised
                following.args = tuple(self(part) if isinstance(part, str) else part for part in following.args)
            following = following.__cause__ or following.__context__


def _lines(value: str) -> Iterator[str]:
    yield value
    if "\n" in value:
        yield from (line for line in value.splitlines() if len(line) >= _LONG_LINE)


def _is_telling(value: str) -> bool:
    if len(value.strip()) < _SHORTEST or _WORD_LIKE.fullmatch(value):
        return False
    return value.lower() not in _COMMON and value not in REDACTED


def _forms(value: str) -> Iterator[str]:
    """Spell a value as itself, in a URL, in JSON and in Python's `repr`."""
    yield value
    yield quote(value, safe="", errors="surrogatepass")
    yield quote(value, errors="surrogatepass")
    yield quote_plus(value, errors="surrogatepass")
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
