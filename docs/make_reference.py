"""Write `docs/reference/commands.md` from the parsers of all commands, and `events.md` from the schemas of all events.

`python docs/make_reference.py` writes both. A test compares the committed pages with the pages of today.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from higgs_audio_trainer.cli import COMMANDS
from higgs_audio_trainer.cli.argument_parser import ArgumentParser, described
from higgs_audio_trainer.cli.train_flags import train_parser
from higgs_audio_trainer.config import GROUPS, default_of, flags
from higgs_audio_trainer.events import EVENTS, Envelope
from higgs_audio_trainer.schema import schema_of

FOLDER = Path(__file__).parent / "reference"
PROGRAM = "higgs-audio-trainer"
COMMANDS_INTRODUCTION = (
    f"`{PROGRAM}` and `python -m higgs_audio_trainer` are the same. Flags without a command mean `train`. "
    "`--log-steps` is `--log_steps`."
)
EVENTS_INTRODUCTION = (
    f"One JSON object a line. `{PROGRAM} schema EVENT` prints the JSON Schema of an event. Fields may be added; "
    "a changed meaning is a new `v`. Readers ignore what they do not know."
)
BACKSLASH_AT_END = "\\\n"
#: The end of a help text with the default, as in `loss [none]`.
DEFAULT_IN_HELP = re.compile(r"\s*\[([^][]*)\]$")


def commands_page() -> str:
    """Return the page of all commands: what each does, its arguments, its exit status and an example."""
    lines = [
        "# Commands",
        "",
        "<!-- Written by `python docs/make_reference.py`. -->",
        "",
        COMMANDS_INTRODUCTION,
        "",
        "| command | does |",
        "|---|---|",
        *(f"| [`{name}`](#{name}) | {text} |" for name, text in COMMANDS.items()),
    ]
    for name, text in COMMANDS.items():
        lines += ["", f"## {name}", ""]
        if name == "train":
            lines += _train(text)
        else:
            module = import_module(f"higgs_audio_trainer.cli.{name.replace('-', '_')}")
            lines += _command(module.parser(f"{PROGRAM} {name}"))
    return "\n".join([*lines, ""])


def _train(text: str) -> Iterator[str]:
    """Yield the tables of all settings."""
    yield f"{text[0].upper()}{text[1:]}. Exit status: 0 done, 2 bad input, 3 `--diagnose fail`, 128 + n on signal n."
    yield ""
    yield (
        "Every setting is a flag, a key of `--config FILE` (YAML), and an entry of `run_start`. All arguments of "
        "[`transformers.TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer) work too."
    )
    for group in GROUPS:
        yield from ("", f"### {'LoRA' if group == 'lora' else group.capitalize()}", "")
        yield from ("| setting | default | meaning |", "|---|---|---|")
        for item in flags():
            if item.metadata["group"] == group:
                default, meaning = _setting(item)
                yield f"| `--{item.name}` | {default} | {meaning} |"
    parser, names = train_parser(PROGRAM), {item.name for item in flags()}
    yield from ("", "### Other flags")
    yield from _arguments(parser, [action for action in parser._actions if action.dest not in names])  # noqa: SLF001


def _setting(item: Field[Any]) -> tuple[str, str]:
    """Return the default and the meaning of a setting."""
    default, text = default_of(item), str(item.metadata["help"])
    shown = "" if default in (None, "") else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    if in_help := DEFAULT_IN_HELP.search(text):
        text, shown = text[: in_help.start()], shown or in_help[1]
    if item.metadata["choices"]:
        text += f"; one of `{'`, `'.join(item.metadata['choices'])}`"
    if item.metadata["aliases"]:
        text += f"; also `--{'`, `--'.join(item.metadata['aliases'])}`"
    return _cell(shown), _cell(text)


def _command(parser: ArgumentParser) -> Iterator[str]:
    """Yield what a command does, the table of its arguments, and its example."""
    yield " ".join(str(parser.description).split())
    if parser.usage:
        yield from ("", f"`{parser.usage}`")
    yield from _arguments(parser, [action for action in parser._actions if action.dest != "help"])  # noqa: SLF001
    before, _, example = str(parser.epilog or "").replace("%(prog)s", parser.prog).partition("example:")
    if before.strip():
        yield from ("", "```text", before.strip(), "```")
    yield from ("", f"Example: `{' '.join(example.replace(BACKSLASH_AT_END, ' ').split())}`")


def _arguments(parser: ArgumentParser, actions: Sequence[argparse.Action]) -> Iterator[str]:
    """Yield the table of arguments. A usage line shows the arguments that have no help."""
    shown = [action for action in actions if action.help != argparse.SUPPRESS or action.option_strings]
    if shown:
        yield from ("", "| argument | meaning |", "|---|---|")
        yield from (f"| {_names(action)} | {_cell(_meaning(parser, action))} |" for action in shown)


def _names(action: argparse.Action) -> str:
    """Return an argument as it is typed.

    Example:
        >>> _names(ArgumentParser(prog="show").add_argument("-o", "--output", metavar="FILE"))
        '`-o FILE`, `--output FILE`'
    """
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(map(str, action.choices or ())) or "VALUE")
    if action.nargs == argparse.OPTIONAL and action.option_strings:
        value = f"[{value}]"
    names = [f"{flag} {value}".strip() for flag in action.option_strings] or [value]
    return ", ".join(f"`{_cell(name)}`" for name in names)


def _meaning(parser: ArgumentParser, action: argparse.Action) -> str:
    return str(described(action)) % {**vars(action), "prog": parser.prog}


def events_page() -> str:
    """Return the page of all events: the fields of the envelope, then the fields of each event."""
    envelope = [item.name for item in fields(Envelope)]
    first = schema_of(next(iter(EVENTS)))
    lines = [
        "# Events",
        "",
        "<!-- Written by `python docs/make_reference.py`. -->",
        "",
        EVENTS_INTRODUCTION,
        "",
        "## Every event",
        "",
        *_fields(first, envelope),
        "",
        "A line also has these where the pipeline had to change values:",
        "",
        *_fields(first, ["nonfinite", "replaced", "shortened"]),
    ]
    for name in EVENTS:
        schema = schema_of(name)
        own = [key for key in schema["properties"] if key not in (*envelope, "nonfinite", "replaced", "shortened")]
        lines += ["", f"## {name}", "", str(schema["description"]), "", *_fields(schema, own)]
        for part, definition in schema.get("$defs", {}).items():
            lines += ["", f"### {name}: {part}", "", str(definition["description"]), ""]
            lines += _fields(definition, list(definition["properties"]))
    return "\n".join([*lines, ""])


def _fields(schema: Mapping[str, Any], names: list[str]) -> list[str]:
    """Return the table of some fields of a schema. A field that may be absent is marked."""
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name in names:
        of = schema["properties"][name]
        optional = "" if name in schema["required"] else " (may be absent)"
        rows.append(f"| `{name}` | {_cell(_type(of))} | {_cell(str(of.get('description', '')))}{optional} |")
    return rows


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a field in words.

    Example:
        >>> _type({"type": "array", "items": {"type": ["number", "null"]}})
        'list of number or null'
    """
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return "string" if isinstance(schema["const"], str) else "integer"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "any")
    if kinds == "array":
        items = schema.get("items") or {}
        return f"list of {_type(items)}" if items else "list"
    return " or ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _cell(text: str) -> str:
    """Return a text that fits a cell of a table. Words in capitals between `<` and `>` would be HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


PAGES = {"commands.md": commands_page, "events.md": events_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
