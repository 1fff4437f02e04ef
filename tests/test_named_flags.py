"""Flags and commands that the README and the pages name: each exists, so that a renamed flag takes the pages along."""

import re
from importlib import import_module

import pytest
from transformers import HfArgumentParser, TrainingArguments

from higgs_audio_trainer.cli import COMMANDS
from higgs_audio_trainer.cli.train_flags import train_parser
from tests.readme import PAGES

#: Of other programs: torchrun, pip, pytest, viewers of trackers, servers.
OF_OTHERS = {"--nproc_per_node", "--max_restarts", "--index-url", "--update-golden", "--logdir", "--backend-store-uri"}
OF_OTHERS |= {"--model-path", "--trust-remote-code", "--omni", "--local-dir"}
OF_OTHERS |= {"--version", "--check"}  # of the program, not of a command; of zstd
USERS_PAGES = [page for page in PAGES if not page.startswith("docs/design/")]
CODE = re.compile(r"```(?:bash|text|python)\n.*?```|`[^`\n]+`", re.DOTALL)


@pytest.fixture(scope="module")
def known():
    """Return the flags of all commands, and of `transformers.TrainingArguments`."""
    parsers = [train_parser("train"), HfArgumentParser(TrainingArguments, add_help=False)]
    modules = [name.replace("-", "_") for name in COMMANDS if name != "train"]
    parsers += [import_module(f"higgs_audio_trainer.cli.{name}").parser(name) for name in modules]
    return {flag.replace("-", "_") for parser in parsers for flag in parser._option_string_actions}


@pytest.mark.parametrize("page", USERS_PAGES)
def test_every_flag_exists(page, known):
    """A flag in code on a page is a flag of a command, of transformers, or of another program."""
    named = {flag for code in CODE.findall(PAGES[page]) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert {flag for flag in named - OF_OTHERS if flag.replace("-", "_") not in known} == set()


@pytest.mark.parametrize("page", USERS_PAGES)
def test_every_command_exists(page):
    """The word after the program is a command."""
    named = set(re.findall(r"higgs-audio-trainer ([a-z][a-z-]*)", " ".join(CODE.findall(PAGES[page]))))
    assert named <= COMMANDS.keys()
