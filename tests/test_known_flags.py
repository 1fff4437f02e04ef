"""Unknown flags, of every command: told before all else, with the nearest known flag if one is near."""

from importlib import import_module

import pytest

from higgs_audio_trainer.cli import COMMANDS, main

OTHERS = [name for name in COMMANDS if name != "train"]


def long_flags(command):
    """Return the flags of a command as declared."""
    module = import_module(f"higgs_audio_trainer.cli.{command.replace('-', '_')}")
    return [flag for flag in module.parser(command)._option_string_actions if flag.startswith("--")]


@pytest.mark.parametrize("command", OTHERS)
def test_a_mistyped_flag_gets_the_nearest(command, capsys):
    """In either spelling, also where a required argument is missing, since that is often the mistyped one."""
    for flag in long_flags(command):
        for typo in (flag + flag[-1], (flag + flag[-1]).replace("_", "-"), f"{flag}{flag[-1]}=5"):
            assert main([command, typo]) == 2
            message = capsys.readouterr().err
            hint = f"{typo}: expected a known flag. Did you mean {flag}? See higgs-audio-trainer {command} --help."
            assert message == f"higgs-audio-trainer: {hint}\n"


@pytest.mark.parametrize("command", OTHERS)
def test_an_unknown_flag_without_a_near_one_gets_none(command, capsys):
    """No flag is guessed."""
    assert main([command, "--quux"]) == 2
    assert "--quux: expected a known flag. See " in capsys.readouterr().err


def test_a_word_too_many_is_named(capsys):
    """A further argument is no flag."""
    assert main(["tiny", "one", "two"]) == 2
    assert "expected no further argument, got 'two'. See higgs-audio-trainer tiny --help." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "hint"), [("--sumary", "Did you mean --summary?"), ("shwo", "Did you mean show?"), ("xyz", "'xyz'.")]
)
def test_hints_for_other_mistakes(argument, hint, capsys):
    """A command has its hint too, and none that is far."""
    assert main(["show", argument] if argument.startswith("-") else [argument]) == 2
    message = capsys.readouterr().err
    assert hint in message
    assert message.count("Did you mean") == hint.count("Did you mean")


def test_a_command_after_flags_is_told_its_place(capsys):
    """Flags without a command mean `train`, where the name of a command is a word too many."""
    assert main(["--no-limits", "show", "out"]) == 2
    assert "show: expected a known flag. Put the command before its flags." in capsys.readouterr().err
