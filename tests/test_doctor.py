"""`doctor`: facts of the machine, and a plan of a training from config.json alone."""

import json
import subprocess
import sys

import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.planning import machine
from tests.families import every_family

GIB = 2**30


@pytest.fixture
def config_alone(tiny, tmp_path):
    """Return a folder with the config.json of a tiny checkpoint and nothing else."""
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny.model_dir / "config.json").read_bytes())
    return folder


def plan(capsys, *arguments):
    """Run a plan with --json and return the exit status and the object."""
    status = main(["doctor", "--plan", "--json", *map(str, arguments)])
    return status, json.loads(capsys.readouterr().out)


@every_family
def test_a_plan_needs_config_json_alone(config_alone, capsys):
    """The plan names the parts of the memory, and the status says whether the training fits."""
    status, made = plan(capsys, "--base_ckpt", config_alone, "--card", 4)
    assert status == 0
    assert made["fits"] is True
    assert made["changes"] == []
    parts = ("weights", "gradients", "optimizer", "activations", "exchange")
    assert made["peak"] == sum(made[name] for name in parts)
    assert main(["doctor", "--plan", "--base_ckpt", str(config_alone), "--card", "4"]) == 0
    shown = capsys.readouterr().out
    assert "parameters trained" in shown
    assert shown.endswith("fits: 4.0 GiB free\n")


def test_a_plan_that_does_not_fit_says_what_to_change(capsys):
    """The published checkpoint is known without a network, and the changes end with one that fits."""
    name = FAMILIES["higgs-audio-v2"].published
    status, made = plan(capsys, "--base_ckpt", name, "--batch_size", 4, "--card", 16, "--clip_seconds", 5)
    assert (status, made["fits"]) == (1, False)
    assert [change["flags"] for change in made["changes"]] == ["--gradient_checkpointing true"]
    assert made["changes"][-1]["peak"] < 15 * GIB < made["peak"]
    status = main(["doctor", "--plan", "--full_finetune", "true", "--card", "4"])
    shown = capsys.readouterr().out
    assert status == 1
    assert "does not fit: 4.0 GiB free. In the order of cost, each beside those before:\n" in shown
    assert shown.splitlines()[-1].startswith("even so it does not fit: shorter clips")


def test_without_a_card_there_is_no_verdict(tiny, capsys, monkeypatch):
    """Without a card, here or named, the status is 0. A card that is there counts by its free memory."""
    monkeypatch.setattr(machine, "devices", list)
    assert plan(capsys, "--base_ckpt", tiny.model_dir)[1]["fits"] is None
    assert main(["doctor", "--plan", "--base_ckpt", str(tiny.model_dir)]) == 0
    assert "no card is known: name one with --card GB" in capsys.readouterr().out
    cards = [{"name": "card", "free": free, "total": 8 * GIB, "bfloat16": True} for free in (8 * GIB, 0)]
    monkeypatch.setattr(machine, "devices", lambda: cards)
    assert plan(capsys, "--base_ckpt", tiny.model_dir)[0] == 1
    assert main(["doctor"]) == 0
    assert "device 1: card, 0.0 GiB of 8.0 GiB free\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "-1"], "--lr: expected at least 0, got -1"),
        (["--card", "24"], "--card: expected --plan beside it, got none. Add --plan"),
        (["--plan", "--clip_seconds", "0"], "--clip_seconds: expected more than 0, got 0"),
        (["--plan", "--clip_seconds", "nan"], "--clip_seconds: expected more than 0, got nan"),
        (["--plan", "--ranks", "x"], "--ranks: expected an integer, got 'x'"),
    ],
)
def test_bad_flags_are_refused_before_torch(arguments, message):
    """A wrong flag is named, the status is 2, and nothing heavy was imported."""
    script = (
        "import sys\nfrom higgs_audio_trainer.cli import main\nstatus = main()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\nsys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"higgs-audio-trainer: {message}")


def test_flags_that_do_not_fit_the_model(tiny, tmp_path, capsys):
    """Names of modules, lengths and checkpoints that cannot be are told as `train` tells them."""
    here = ["--base_ckpt", str(tiny.model_dir)]
    for arguments, message in (
        ([*here, "--lora_targets", "q_prj"], "--lora_targets: expected names of linear modules"),
        ([*here, "--clip_seconds", "1e5"], "--clip_seconds: expected at most"),
        (["--base_ckpt", str(tmp_path)], f"--base_ckpt {tmp_path}: expected a config.json, got none"),
        ([*here, "--optim", "adamm"], "--optim: "),
        ([*here, "--sinks", "nope"], "--sinks: expected one of console, "),
        ([*here, "--fsdp", "full_shard", "--load_in_4bit", "true"], "where each rank has the whole model, got FSDP"),
    ):
        assert main(["doctor", "--plan", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_facts_of_the_machine(tmp_path, capsys, monkeypatch):
    """Versions, memory, the room for each folder, and a command for each package that is missing."""
    monkeypatch.setattr(machine, "find_spec", lambda module: None)
    monkeypatch.setattr(machine, "devices", list)
    output = tmp_path / "deep" / "out"
    assert main(["doctor", "--output_dir", str(output), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "transformers", "peft"} <= facts["versions"].keys()
    assert facts["places"]["output"] == {"path": str(output), "free": facts["places"]["log"]["free"]}
    assert facts["places"]["log"]["path"] == str(output / "events")
    assert set(facts["places"]) == {"model cache", "output", "log", "codes"}
    assert facts["host"]["cores"] > 0
    assert facts["base_ckpt"]["is"] == "to be downloaded"
    assert not output.parent.exists(), "nothing is made"
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "devices: no CUDA device. A training would use the CPU\n" in shown
    assert "trackio: missing; pip install 'higgs-audio-trainer[trackio]' (for --sinks trackio)\n" in shown
    assert "\nsinks: console, jsonl, null" in shown
    assert machine.base_checkpoint(str(tmp_path)) == "folder without config.json"
    (tmp_path / "config.json").write_text("{}")
    assert machine.base_checkpoint(str(tmp_path)) == "folder"
    assert machine.base_checkpoint("not a name") == "not found"


def test_an_interrupted_download_is_cached_in_part(tmp_path, monkeypatch):
    """A checkpoint is cached when every file of its index is there."""
    there = {"model.safetensors.index.json", "model-1.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: str(tmp_path / file) if file in there else None
    )
    assert machine.base_checkpoint("owner/name").startswith("cached in part")
    there.add("model-2.safetensors")
    assert machine.base_checkpoint("owner/name") == "cached"


def test_sinks_of_installed_packages(tmp_path, capsys, monkeypatch):
    """A registered sink is named, and a sink that cannot be imported is told with the reason."""
    info = tmp_path / "fancy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[higgs_audio_trainer.sinks]\nfancy = sinks.null:null_sink\nbad = none:f\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "\nsinks: console, jsonl, null, fancy\n--sinks: expected to load 'bad', got " in shown


def test_processes_that_share_a_model(tiny, capsys, monkeypatch):
    """FSDP of `accelerate launch` counts, DeepSpeed is said not to, and neither is advised what it cannot do."""
    here = ["--base_ckpt", tiny.model_dir, "--full_finetune", "true"]
    whole = plan(capsys, *here)[1]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "4")
    status, made = plan(capsys, *here, "--card", "0.1")
    assert (status, made["ranks"], made["weights"]) == (1, 4, whole["weights"] // 4)
    assert not any("bit" in change["flags"] for change in made["changes"])
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["doctor", "--plan", "--base_ckpt", str(tiny.model_dir)]) == 0
    assert "FSDP divides nothing on one rank" in capsys.readouterr().out
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert main(["doctor", "--plan", "--base_ckpt", str(tiny.model_dir), "--deepspeed", "ds.json"]) == 0
    assert "DeepSpeed is not included" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "some")
    assert main(["doctor", "--plan", "--base_ckpt", str(tiny.model_dir)]) == 2
    assert "WORLD_SIZE: expected a number of processes, got 'some'" in capsys.readouterr().err
