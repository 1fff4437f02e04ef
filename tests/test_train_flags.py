"""Flags and YAML become settings: names, aliases, ranges, error messages."""

import argparse
import dataclasses
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version

import pytest
from transformers import HfArgumentParser, TrainingArguments

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.cli.train_flags import parse_train
from higgs_audio_trainer.config import CONSOLE_DETAILS, TrainSettings, flags
from higgs_audio_trainer.errors import UserError
from sinks.rendering.renderers import DETAILS

NEEDED = ["--train_manifest", "m.jsonl", "--output_dir", "out"]


def parse(*arguments):
    """Parse flags together with the flags that every run needs."""
    return parse_train([*NEEDED, *arguments], "higgs-audio-trainer train")


def test_the_usage_line_needs_nothing_added():
    """The usage line of the README gives the default settings."""
    settings = parse("--log_steps", "50")
    assert settings.log_steps == 50
    assert (settings.lora_r, settings.lora_alpha, settings.lora_dropout) == (32, 64, 0.05)
    assert (settings.sinks, settings.log_codebooks, settings.log_samples, settings.log_window) == (
        "console,jsonl",
        "0",
        2,
        5,
    )
    assert settings.log_text
    assert settings.extra == {}


def test_the_original_trainers_flags_are_taken_as_they_are():
    """Every flag of the original trainer keeps its meaning."""
    settings = parse(
        *[
            "--eval_manifest",
            "e.jsonl",
            "--base_ckpt",
            "b",
            "--batch_size",
            "2",
            "--lr",
            "1e-3",
            "--wd",
            "0.1",
            "--epochs",
            "4",
            "--grad_accum",
            "3",
            "--warmup",
            "10",
            "--lora_r",
            "8",
            "--lora_alpha",
            "16",
            "--lora_dropout",
            "0",
            "--log_steps",
            "7",
            "--val_steps",
            "9",
            "--save_steps",
            "11",
        ]
    )
    assert dataclasses.asdict(settings) | {
        "eval_manifest": "e.jsonl",
        "base_ckpt": "b",
        "batch_size": 2,
        "lr": 1e-3,
        "wd": 0.1,
        "epochs": 4.0,
        "grad_accum": 3,
        "warmup": 10.0,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "log_steps": 7,
        "val_steps": 9,
        "save_steps": 11,
    } == dataclasses.asdict(settings)


@pytest.mark.parametrize(("item", "alias"), [(item, alias) for item in flags() for alias in item.metadata["aliases"]])
def test_hugging_face_names_mean_the_same(item, alias):
    """Each alias sets the setting of our name."""
    value = {"dtype": "float32", "lora_targets": "q_proj", "resume": "here"}.get(item.name, "3")
    ours, theirs = (parse(f"--{name}", value) if item.name != "train_manifest" else None for name in (item.name, alias))
    assert ours == theirs


@pytest.mark.parametrize(
    "arguments",
    [
        ("--lora-r=1", "--lora_r", "2"),
        ("--batch_size", "1", "--batch_size", "2"),
        ("--sinks", "console", "--sinks", "none"),
        ("--lr", "0.1", "--learning-rate=0.2", "--lr", "0.2"),
    ],
)
def test_of_a_flag_given_twice_the_last_counts(arguments):
    """As in every command line, so that a script can append a flag to override one."""
    name, value = arguments[-2].lstrip("-"), arguments[-1]
    assert str(getattr(parse(*arguments), name)) == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--learning-rate=1e-4", "--lr", "0.2"), "--learning_rate 0.0001 and --lr 0.2: expected one value"),
        (("--lora_rank", "4", "--lora-r", "8"), "--lora_rank 4 and --lora_r 8: expected one value"),
        (("--rank", "4", "--bf16", "--lora_r", "8"), "--rank 4 and --lora_r 8: expected one value"),
        (("--lora_target_modules", "a", "b", "--lora_targets", "a"), "--lora_target_modules a,b and --lora_targets a:"),
    ],
)
def test_two_names_of_a_setting_have_one_value(arguments, message):
    """Two names with different values are a contradiction, since nobody overrides a flag by another name."""
    with pytest.raises(UserError, match=re.escape(message)):
        parse(*arguments)


def test_two_names_with_one_value_are_no_contradiction():
    """Whatever the spelling of the value."""
    assert parse("--learning_rate", "1e-3", "--lr", "0.001").lr == 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--log_steps", "0"],
            "a fraction of all steps below 1, got 0; to turn logging off: --sinks none",
        ),
        (
            ["--log_steps", "-5"],
            "--log_steps: expected whole steps, at least 1, or a fraction of all steps",
        ),
        (["--lora_dropout", "1"], "--lora_dropout: expected at least 0 and less than 1, got 1"),
        (["--lr", "-1"], "--lr: expected at least 0, got -1"),
        (["--lr", "nan"], "--lr: expected at least 0 and finite, got nan"),
        (["--lr", "inf"], "--lr: expected at least 0 and finite, got inf"),
        (["--seed", "99999999999"], "--seed: expected at least 0 and at most 4294967295, got 1e+11"),
        (["--log_window", "100000"], "--log_window: expected at least 1 and at most 1000, got 100000"),
        (["--lora_targets", ","], "--lora_targets: expected names of modules, got ','"),
        (["--max_seconds", "0"], "--max_seconds: expected more than 0, got 0"),
        (["--max_steps", "0"], "--max_steps: expected at least 1, or -1 for whole epochs, got 0"),
        (["--warmup", "2.5"], "--warmup: expected whole steps, or a fraction below 1, got 2.5"),
        (["--log_codebooks", "a"], "--log_codebooks: expected a list like 0,1,7 or all, got 'a'"),
        (["--dtype", "int8"], "--dtype: expected one of auto, float32, bfloat16, float16, got 'int8'"),
        (["--log_text", "maybe"], "expected true or false, got 'maybe'"),
        (["--batch_size", "two"], "--batch_size: expected an integer, got 'two'"),
        (["--log_step", "5"], "--log_step: expected a known flag. Did you mean --log_steps?"),
        (["--learningrate", "5"], "Did you mean --learning_rate?"),
        (["--weight_deca", "5"], "Did you mean --weight_decay?"),
        (["--lora-rnk", "5"], "--lora-rnk: expected a known flag. Did you mean --lora_rank?"),
        (["--batch=5"], "--batch=5: expected a known flag. Did you mean --batch_size?"),
        (["--device", "cpu"], "--device: expected a known flag. See higgs-audio-trainer train --help."),
    ],
)
def test_wrong_values_name_the_range(arguments, message):
    """The error for a wrong value, a wrong type or an unknown flag names the expected value or flag."""
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert message in str(caught.value)


def test_required_paths_are_asked_for():
    """A missing manifest or output directory is an error."""
    with pytest.raises(UserError, match="--train_manifest: expected a path"):
        parse_train(["--output_dir", "out"], "p")
    with pytest.raises(UserError, match="--output_dir: expected a path"):
        parse_train(["--train_manifest", "m"], "p")


def test_training_arguments_pass_through():
    """Flags of transformers go to `extra` with their types."""
    settings = parse(
        "--max_grad_norm", "0.5", "--dataloader_num_workers", "2", "--bf16", "--lr_scheduler_type", "cosine"
    )
    assert settings.extra["max_grad_norm"] == 0.5
    assert settings.extra["dataloader_num_workers"] == 2
    assert settings.extra["bf16"] is True
    assert set(settings.extra) == {"max_grad_norm", "dataloader_num_workers", "bf16", "lr_scheduler_type"}


def example_of(action):
    """Return a text that an argument of transformers accepts, or None if the argument takes objects alone."""
    for text in (*(action.choices or ()), "3", "true", "underflow_overflow", ""):
        with suppress(ValueError, TypeError, AttributeError, argparse.ArgumentTypeError):
            action.type(str(text))
            return str(text)
    return None


@pytest.fixture(scope="module")
def foreign():
    """Return transformers' own parser, and an example for each argument that has a value and is no setting of ours."""
    parser = HfArgumentParser(TrainingArguments)
    ours = {"help", *(name for item in flags() for name in (item.name, *item.metadata["aliases"]))}
    arguments = [action for action in parser._actions if action.nargs != 0 and action.dest not in ours]
    examples = {action.dest: example_of(action) for action in arguments}
    return parser, {name: text for name, text in examples.items() if text is not None}


def test_every_training_argument_is_read_as_transformers_reads_it(foreign, tmp_path):
    """By its name, with hyphens, after an equals sign and from YAML, a value has the type that transformers gives."""
    parser, examples = foreign
    assert len(examples) > 90
    theirs = vars(parser.parse_known_args([*NEEDED, *(f"--{name}={value}" for name, value in examples.items())])[0])
    expected = {name: theirs[name] for name in examples}
    spaced = [part for name, value in examples.items() for part in (f"--{name}", value)]
    hyphens = [f"--{name.replace('_', '-')}={value}" for name, value in examples.items()]
    yaml = write_yaml(tmp_path, "".join(f"{name}: '{value}'\n" for name, value in examples.items()))
    for arguments in (spaced, hyphens, ["--config", yaml]):
        assert parse("--lr", "1e-3", *arguments, "--epochs", "2").extra == expected


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["--bf16"], {"bf16": True}),
        (["--bf16", "false"], {"bf16": False}),
        (["--no_remove_unused_columns"], {"remove_unused_columns": False}),
        (["--no-remove-unused-columns", "--lr", "1"], {"remove_unused_columns": False}),
        (["--label_names", "a", "b", "--lr", "1"], {"label_names": ["a", "b"]}),
        (["--run_name", "a", "--run_name=b"], {"run_name": "b"}),
        (["--run-name=a-b_c=d"], {"run_name": "a-b_c=d"}),
        (["--resume", "--bf16"], {"bf16": True}),
    ],
)
def test_forms_of_training_arguments(arguments, extra):
    """A switch stands alone, takes a value or begins with `no_`; a list takes several values; the last value counts."""
    assert parse(*arguments).extra == extra


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stray"], "stray: expected a known flag."),
        (["--bf16", "true", "stray"], "stray: expected a known flag."),
        (["--max_grad_norm", "--lr", "1", "0.5"], "--max_grad_norm: expected a value, got none"),
        (["--label_names", "a", "--lr", "1", "b"], "b: expected a known flag."),
        (
            ["--max_grad_norm", "x"],
            "--max_grad_norm: expected a number, got 'x'. See higgs-audio-trainer train --help_all.",
        ),
        (["--bf16", "--lr", "x"], "--lr: expected a number, got 'x'. See higgs-audio-trainer train --help."),
        (["--optim", "none"], "--optim: expected one of adamw_torch, "),
        (["--max-grad-nom", "1"], "--max-grad-nom: expected a known flag. Did you mean --max_grad_norm?"),
        (["--bogus=1", "--config", "no.yaml"], "--config: no.yaml: No such file or directory"),
    ],
)
def test_wrong_training_arguments(arguments, message):
    """A value belongs to the flag before it and to no other; each error names the help that explains the flag."""
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert message in str(caught.value)


def test_our_flags_alone_load_no_transformers():
    """A command line with only our flags does not import transformers."""
    script = (
        "import sys\n"
        "from higgs_audio_trainer.cli.train_flags import parse_train\n"
        f"parse_train({NEEDED!r}, 'train')\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_switches():
    """A switch stands alone or takes true or false. --resume stands alone or takes a checkpoint."""
    assert parse("--skip_bad_samples").skip_bad_samples
    assert not parse("--skip_bad_samples", "false").skip_bad_samples
    assert not parse("--log_text", "no").log_text
    assert parse().resume is None
    assert parse("--resume").resume == "latest"
    assert parse("--resume", "out/checkpoint-5").resume == "out/checkpoint-5"


def write_yaml(folder, text):
    """Write a configuration file."""
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_yaml_is_read_first_and_flags_win(tmp_path):
    """YAML keys may be our names, aliases or names of transformers. Lists are allowed. Flags override YAML."""
    path = write_yaml(
        tmp_path,
        "learning_rate: 1e-3\nepochs: 2\nlog_codebooks: [0, 3]\nsinks: [console, 'jsonl:dir=x']\n"
        "max_grad_norm: 0.5\nlog_text: false\neval_manifest: null\nresume: true\n",
    )
    settings = parse("--config", path, "--lr", "5e-4", "--max_grad_norm", "2")
    assert settings.lr == 5e-4
    assert settings.epochs == 2.0
    assert settings.log_codebooks == "0,3"
    assert settings.sinks == "console,jsonl:dir=x"
    assert settings.extra == {"max_grad_norm": 2.0}
    assert not settings.log_text
    assert settings.resume == "latest"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log_step: 5", "log_step: expected a known setting. Did you mean log_steps?"),
        ("lr: fast", "lr: expected a number, got 'fast'"),
        ("batch_size: true", "batch_size: expected an integer, got True"),
        ("batch_size: 2.5", "batch_size: expected an integer, got 2.5"),
        ("log_steps: 0", "--log_steps: expected whole steps, at least 1, or a fraction of all steps below 1, got 0"),
        ("lr: 1\nlearning_rate: 2", "expected one value for lr, got two different values"),
        ("- a", "expected keys and values, got list"),
        ("a: [", "expected YAML, got"),
    ],
)
def test_wrong_yaml_is_an_error(tmp_path, text, message):
    """An unknown key gets a suggestion. Wrong types and broken YAML are reported with the file."""
    with pytest.raises(UserError) as caught:
        parse("--config", write_yaml(tmp_path, text))
    assert message in str(caught.value)


def test_yaml_numbers_for_transformers_have_their_types(tmp_path):
    """PyYAML reads 1e-8 as text. A value for transformers gets the type of the flag."""
    settings = parse("--config", write_yaml(tmp_path, "adam_epsilon: 1e-8\nbf16: true\nsave_total_limit: 2\n"))
    assert settings.extra == {"adam_epsilon": 1e-8, "bf16": True, "save_total_limit": 2}
    with pytest.raises(UserError, match=r"--save_total_limit: expected an integer, got 'two'"):
        parse("--config", write_yaml(tmp_path, "save_total_limit: two"))


def test_yaml_values_may_begin_with_a_dash(tmp_path):
    """YAML text that looks like a flag is a value."""
    assert parse("--config", write_yaml(tmp_path, "run_name: -x")).extra == {"run_name": "-x"}


def test_an_infinite_count_in_yaml_is_an_error(tmp_path):
    """Infinity for an integer is an error without a traceback."""
    with pytest.raises(UserError, match="batch_size: expected an integer, got inf"):
        parse("--config", write_yaml(tmp_path, "batch_size: .inf"))


def test_missing_yaml_is_an_error(tmp_path):
    """The error for a missing file names the path."""
    with pytest.raises(UserError, match=r"--config: .*: No such file or directory"):
        parse("--config", str(tmp_path / "none.yaml"))


def test_help_shows_our_flags_in_groups_and_the_rest_on_request(capsys):
    """`--help` fits a screen and names all our flags. `--help_all` explains ours and those of transformers."""
    assert main(["train", "--help"]) == 0
    short = capsys.readouterr().out
    assert all(f"--{item.name}" in short.split() or item.name in short.split() for item in flags())
    assert len(short.splitlines()) <= 24
    assert main(["--help_all"]) == 0
    whole = capsys.readouterr().out
    assert all(f"\n  --{item.name} " in whole for item in flags())
    assert all(f"\n{title}:\n" in whole for title in ("data", "model", "LoRA", "optimisation", "run", "log"))
    assert "--max_grad_norm" in whole
    assert "--per_device_train_batch_size" not in whole
    assert "%%" not in whole
    assert max(map(len, whole.splitlines())) <= 80


def test_the_overview_names_every_command(capsys):
    """`--help` without a command lists commands, then flags of train. No argument is exit status 2."""
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ("train", "prepare", "demo", "tiny", "schema"))
    assert "--log_steps" in out
    assert main([]) == 2


def test_an_unknown_command_suggests_the_nearest(capsys):
    """A misspelt command is exit status 2 with a suggestion."""
    assert main(["trian"]) == 2
    assert "Did you mean train?" in capsys.readouterr().err


def test_version(capsys):
    """`--version` prints the versions of the package, of Python and of the libraries as installed."""
    assert main(["--version"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"higgs-audio-trainer {version('higgs-audio-trainer')}"
    shown = dict(line.split(" ", 1) for line in others)
    assert shown.pop("python") == platform.python_version()
    assert shown.pop("torch").startswith(f"{version('torch')}, built for ")
    assert {"transformers", "peft", "accelerate", "datasets"} <= shown.keys()
    assert shown == {name: version(name) for name in shown}


def test_settings_are_frozen():
    """The settings of a run cannot change."""
    settings = TrainSettings(train_manifest="m", output_dir="o")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lr = 1.0


@pytest.mark.parametrize(
    ("arguments", "sinks"),
    [
        (["--console", "line"], "console:detail=line,jsonl"),
        (["--console", "full"], "console:detail=full,jsonl"),
        (
            ["--console", "compact", "--sinks", "jsonl", "console:shapes=changes"],
            "jsonl,console:shapes=changes:detail=compact",
        ),
        (["--console", "line", "--sinks", "console:detail=line"], "console:detail=line"),
        (["--sinks", "console:detail=line"], "console:detail=line"),
    ],
)
def test_the_detail_of_the_console(arguments, sinks):
    """`--console` sets an option of the console sink. A second reading of the settings gives the same."""
    settings = parse(*arguments)
    assert settings.sinks == sinks
    assert dataclasses.replace(settings) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--console", "quiet"], r"^--console: expected one of full, compact, line, got 'quiet'$"),
        (
            ["--console", "line", "--sinks", "jsonl"],
            r"^--console: expected the sink console in --sinks, got --sinks jsonl\.",
        ),
        (
            ["--console", "line", "--sinks", "console:detail=full"],
            r"^--console: expected full as in --sinks, got line\. Leave one out$",
        ),
        (["--log_samples", "-1"], r"^--log_samples: expected at least 0 and at most 1000, got -1$"),
        (
            ["--log_samples", "0", "--log_audio", "1"],
            r"^--log_audio: expected --log_samples of at least 1, whose samples",
        ),
    ],
)
def test_what_the_console_cannot_show(arguments, message):
    """An unknown detail, a console that is not there, and samples to decode that are not logged are refused."""
    with pytest.raises(UserError, match=message):
        parse(*arguments)


def test_the_details_are_those_of_the_sink():
    """The settings know the details without an import of the sink."""
    assert list(CONSOLE_DETAILS) == list(DETAILS)
