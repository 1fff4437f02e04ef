"""`--print_config` writes the settings in force as YAML, from which `--config` reads equal settings."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.cli.config_file import as_yaml, types_of_settings
from higgs_audio_trainer.cli.train_flags import parse_train
from higgs_audio_trainer.config import TrainSettings, flags
from higgs_audio_trainer.errors import UserError
from tests.test_train_flags import NEEDED, foreign

__all__ = ["foreign"]
TOKEN = "hf_" + "a1B2c3D4" * 4
VALUES = {
    str: st.text(st.characters(exclude_characters="\0")),
    int: st.integers(-1, 2**33),
    float: st.floats(0, 1e20) | st.integers(0, 10_000).map(float),
    bool: st.booleans(),
}
ONE_SETTING = st.sampled_from(flags()).flatmap(
    lambda item: st.tuples(st.just(item.name), VALUES[types_of_settings()[item.name]])
)


def read_back(folder, settings):
    """Return the settings that `--config` reads from printed ones."""
    path = folder / "run.yaml"
    path.write_text(as_yaml(settings), encoding="utf-8", errors="surrogatepass")
    return parse_train(["--config", str(path)], "train")


@given(pair=ONE_SETTING)
@example(pair=("keep_best", "\u2028'\"\x85 \t"))
@example(pair=("output_dir", "- a: #b\n\n"))
@example(pair=("train_manifest", "1e5"))
@example(pair=("eval_manifest", "null"))
@example(pair=("text_column", ""))
@example(pair=("resume", "true"))
@example(pair=("processors", "none"))
@example(pair=("log_codebooks", "0"))
@example(pair=("lr", 1e-5))
@example(pair=("wd", 1e16))
def test_every_setting_is_read_back(tmp_path_factory, pair):
    """Whatever the value: texts that look like numbers or YAML, and numbers that YAML alone reads as texts."""
    settings = None
    with suppress(UserError):
        settings = TrainSettings(**dict([("train_manifest", "m"), ("output_dir", "o"), pair]))
    assume(settings is not None and "left out" not in as_yaml(settings))
    assert read_back(tmp_path_factory.getbasetemp(), settings) == settings


def test_every_argument_of_transformers_is_read_back(foreign, tmp_path):
    """With its type."""
    _, examples = foreign
    settings = parse_train(
        [*NEEDED, *(f"--{name}={value}" for name, value in examples.items() if "token" not in name)], "t"
    )
    assert len(settings.extra) > 90
    assert read_back(tmp_path, settings) == settings


def test_the_command_prints_what_flags_and_file_resolve_to(tmp_path, capsys):
    """Names become ours, flags override the file, a home folder has its path, and the file is read back."""
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-3\nepochs: 2\nmax_grad_norm: 1e-1\noutput_dir: ~/out\n")
    given_flags = ["--config", str(tmp_path / "a.yaml"), "--train_file=m.jsonl", "--lora-rank", "4", "--bf16", "false"]
    assert main(["--epochs", "4", *given_flags, "--print_config"]) == 0
    printed = capsys.readouterr().out
    content = yaml.safe_load(printed)
    assert (content["lr"], content["epochs"], content["lora_r"], content["train_manifest"]) == (1e-3, 4, 4, "m.jsonl")
    assert (content["max_grad_norm"], content["bf16"]) == (0.1, False)
    assert content["output_dir"] == os.path.expanduser("~/out")  # noqa: PTH111
    (tmp_path / "b.yaml").write_text(printed, encoding="utf-8")
    assert main(["train", "--config", str(tmp_path / "b.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_required_settings_that_are_missing_are_marked(capsys):
    """So that the output without a flag is a file to fill in."""
    assert main(["--print_config"]) == 0
    assert "\ntrain_manifest: null  # required\n" in capsys.readouterr().out


def test_a_secret_is_left_out(tmp_path, capsys):
    """A token, and a password in a URL. A comment says how to give the secret, and the rest is read back."""
    flags_of_hub = ["--hub_token", TOKEN, "--push_to_hub", "--report_to", "https://ann:hunter22@host/x"]
    assert main([*NEEDED, *flags_of_hub, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert TOKEN not in printed
    assert "hunter22" not in printed
    assert "# hub_token: left out, since the value holds a secret. Give it with --hub_token\n" in printed
    (tmp_path / "run.yaml").write_text(printed, encoding="utf-8")
    settings = parse_train(["--config", str(tmp_path / "run.yaml"), "--hub_token", TOKEN], "train")
    assert settings.extra == {"hub_token": TOKEN, "push_to_hub": True}
    assert settings.report_to == "none"


@pytest.mark.parametrize("wrong", [["--lr", "fast"], ["--lr", "-1"], ["--quux"], ["--lr", "1", "--learning_rate", "2"]])
def test_wrong_flags_are_errors_all_the_same(wrong, capsys):
    """Nothing is printed that `--config` would refuse."""
    assert main([*NEEDED, *wrong, "--print_config"]) == 2
    assert capsys.readouterr().out == ""


def test_one_process_prints_and_none_loads_torch():
    """Under torchrun the first process prints. Our own flags need no transformers."""
    program = f"import sys; from higgs_audio_trainer.cli import main; main({[*NEEDED, '--print_config']!r}); "
    program += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    for rank in ("0", "1"):
        environment = os.environ | {"RANK": rank, "WORLD_SIZE": "2"}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
        assert (b"train_manifest: m.jsonl\n" in done.stdout) == (rank == "0")
        assert done.stderr == b""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr: .nan", "--lr: expected at least 0 and finite, got nan"),
        ("output_dir: !!binary YQ==", "c.yaml: output_dir: expected a text, got b'a'"),
        ("output_dir: {a: 1}", "c.yaml: output_dir: expected a text, got {'a': 1}"),
        ("max_steps: !!binary MTI=", "c.yaml: max_steps: expected an integer, got b'12'"),
        ("lr: 1\nlr: 2", "expected each key once, got 'lr' twice in line 2, column 1"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path, monkeypatch, capsys, line, message):
    """Bytes and mappings are no texts, and a key that comes twice is a slip."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(line)
    flags = ["--output_dir", "out"] if "output_dir" not in line else []
    assert main(["train", "--config", "c.yaml", "--train_manifest", "m.jsonl", *flags]) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert message in printed
