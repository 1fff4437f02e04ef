"""`--push_to_hub`: the Hub gets adapter, card, tokenizer and processor, and nothing else of a run."""

import huggingface_hub
import pytest
from transformers.utils import hub as transformers_hub

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.model_card import own_card
from tests.fake_hub import TOKEN, fake_hub
from tests.test_model_card import assert_valid_for_the_hub
from tests.test_run import settings

WANTED = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def hub(monkeypatch):
    """Serve a Hub, and let the libraries of this process find it in place of the real one."""
    with fake_hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(transformers_hub, "_hf_api", None)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield served


def pushed(tiny, clips, folder, **extra):
    """Make settings of a run that is sent to the Hub."""
    hub = {"push_to_hub": True, "hub_model_id": "my-voice", "hub_token": TOKEN, **extra}
    more = {"save_steps": 1, "max_steps": 2, "log_steps": 1, "log_audio": 1, "extra": hub}
    return settings(tiny, clips, folder, **more)


def test_a_finished_adapter_is_sent_with_its_card(tiny, clips, tmp_path, hub, capfd):
    """The card is ours and names the repository; no log, no audio, no arguments, and the token nowhere."""
    said = []
    run_training(pushed(tiny, clips, tmp_path / "out"), say=said.append)
    assert [body["name"] for body in hub.created] == ["my-voice"]
    assert hub.tokens == {TOKEN}
    message, files = hub.commits[-1]
    assert message == "End of training"
    assert set(hub.files) == WANTED
    assert set(files) == WANTED
    for name, content in files.items():
        assert content == (tmp_path / "out" / name).read_bytes()
        assert TOKEN.encode() not in content
    card = files["README.md"].decode()
    assert_valid_for_the_hub(card)
    assert own_card(tmp_path / "out") == card
    assert "\n# my-voice\n" in card
    assert "hf download ann/my-voice --local-dir adapter\nhiggs-audio-trainer say adapter " in card
    assert 'PeftModel.from_pretrained(base, "ann/my-voice")' in card
    assert "More Information Needed" not in card
    out, err = capfd.readouterr()
    assert TOKEN not in out + err + "".join(said)
    assert any("--push_to_hub: adapter_config.json on the Hub will name the folder" in line for line in said)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


def test_checkpoints_are_sent_while_the_training_goes_on(tiny, clips, tmp_path, hub):
    """The adapter of a checkpoint with its card, and with a strategy that says so all files to resume from."""
    run_training(pushed(tiny, clips, tmp_path / "out", hub_strategy="checkpoint", hub_always_push=True))
    messages = [message for message, _ in hub.commits]
    assert {"Training in progress, step 1", "Training in progress, step 1, checkpoint"} <= set(messages)
    assert messages[-1] == "End of training"
    first = dict(hub.commits)["Training in progress, step 1"]
    assert set(first) == WANTED
    assert "| optimizer steps | 1 |" in first["README.md"].decode()
    resumable = {path for path in hub.files if "/" in path}
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json"} <= resumable
    assert all(path.startswith("last-checkpoint/") for path in resumable)
    assert all(TOKEN.encode() not in content for content in hub.files.values())


def test_nothing_is_sent_before_the_end_if_the_user_says_so(tiny, clips, tmp_path, hub):
    """--hub_strategy end."""
    run_training(pushed(tiny, clips, tmp_path / "out", hub_strategy="end"))
    assert [message for message, _ in hub.commits] == ["End of training"]


def test_a_hub_that_refuses_costs_no_adapter(tiny, clips, tmp_path, hub):
    """One sentence with the command that sends the files later, without the token."""
    hub.refuses = 403
    with pytest.raises(UserError, match=r"--push_to_hub: ann/my-voice: .*hf upload ann/my-voice") as error:
        run_training(pushed(tiny, clips, tmp_path / "out", hub_strategy="end"))
    assert TOKEN not in str(error.value)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert own_card(tmp_path / "out") is not None
