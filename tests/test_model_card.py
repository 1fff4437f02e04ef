"""The model card: figures in place of names, metadata that the Hub accepts, and a card of the user's that stays."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from higgs_audio_trainer.checkpoint.base_reference import BaseReference, reference_to
from higgs_audio_trainer.config import DEFAULT_BASE_CKPT
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.model_card import own_card, whole_card, write_card
from higgs_audio_trainer.training.whole_checkpoint import export_model
from tests.test_run import read_log, settings

# https://huggingface.co/docs/hub/model-cards#model-card-metadata, as far as a card of ours has the fields.
TYPES = {
    "base_model": str,
    "base_model_relation": str,
    "library_name": str,
    "license": str,
    "license_name": str,
    "license_link": str,
    "pipeline_tag": str,
    "tags": list,
}
LICENCES = {"apache-2.0", "mit", "other", "llama3", "cc-by-nc-4.0"}  # some of the Hub's


@pytest.fixture(scope="module")
def made(tiny, clips, tmp_path_factory):
    """Train with an evaluation, and return the output directory. The base checkpoint has a card with a licence."""
    folder = tmp_path_factory.mktemp("secret-project")
    shutil.copytree(tiny.model_dir, folder / "base")
    (folder / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    changes = {"base_ckpt": str(folder / "base"), "eval_manifest": str(clips), "val_steps": 1, "max_steps": 3}
    run_training(settings(tiny, clips, folder / "out", log_steps=1, lr=0.01, **changes))
    return folder / "out"


def assert_valid_for_the_hub(card):
    """Check what `ModelCard.validate` asks the Hub: keys, types, identifiers."""
    data = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])
    for name, value in data.items():
        assert isinstance(value, TYPES[name]), (name, value)
    assert all(isinstance(tag, str) and re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", tag) for tag in data["tags"])
    assert data["pipeline_tag"] == "text-to-speech"
    assert data["library_name"] in ("peft", "transformers")
    assert data.get("base_model_relation", "adapter") in ("adapter", "finetune", "quantized", "merge")
    if "base_model" in data:
        validate_repo_id(data["base_model"])
    if "license" in data:
        assert data["license"] in LICENCES
    if data.get("license") == "other":
        assert re.fullmatch(r"[a-z0-9-.]+", data["license_name"])
    assert data.get("license_link", "https://").startswith("https://")
    assert ModelCard(card).data.to_dict() == data
    return data


def test_a_finished_training_has_a_card(made):
    """Counts, settings, figures, versions, licence and how to speak; no template."""
    card = (made / "README.md").read_text(encoding="utf-8")
    data = assert_valid_for_the_hub(card)
    assert (data["library_name"], data["license"]) == ("peft", "apache-2.0")
    assert "base_model" not in data, "a folder is no name on the Hub"
    assert "| training | 8 | 0.01 | 8 |" in card
    assert "| learning rate, schedule | 0.01, linear |" in card
    assert "| batch: micro-batch x accumulated x processes | 2 x 2 x 1 |" in card
    assert "peft 0." in card
    assert "applies: apache-2.0." in card
    assert "higgs-audio-trainer say ." in card
    assert "PeftModel.from_pretrained" in card
    for path in made.rglob("README.md"):
        assert "More Information Needed" not in path.read_text(encoding="utf-8")


def test_the_figures_of_the_card_are_those_of_the_log(made):
    """First and last step, first, best and last evaluation."""
    card = (made / "README.md").read_text(encoding="utf-8")
    events = read_log(made)
    steps = [event for event in events if event["event"] == "train_step"]
    results = [event for event in events if event["event"] == "eval_result"]
    best = min(results, key=lambda event: event["loss"])
    for name, event in (
        ("training, first logged step", steps[0]),
        ("training, last logged step", steps[-1]),
        ("evaluation, first", results[0]),
        ("evaluation, best loss", best),
        ("evaluation, last", results[-1]),
    ):
        losses = f"{event['loss']:.3f} | {event['text_loss']:.3f} | {event['audio_loss']:.3f}"
        assert f"| {name} | {event['step']} | {losses} | {event['text_accuracy']:.1%} | " in card
        assert f"| {event['audio_accuracy_per_codebook'][0]:.1%} |\n" in card


def test_the_card_names_nothing_of_the_users(made, clips):
    """No path, no folder above the base checkpoint's, no id and no text of a sample, no host."""
    card = (made / "README.md").read_text(encoding="utf-8")
    assert str(made) not in card
    assert "secret-project" not in card
    assert str(clips.parent) not in card
    assert read_log(made)[0]["host"] not in card
    for line in clips.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        assert sample["text"] not in card
        assert sample["id"] not in card


def test_without_a_log_the_card_has_no_figures(tiny, clips, tmp_path):
    """--sinks none: settings and data all the same."""
    run_training(settings(tiny, clips, tmp_path, sinks="none", max_steps=1))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert_valid_for_the_hub(card)
    assert "## Results" not in card
    assert "| training | 8 |" in card


def test_a_resumed_training_replaces_its_card_with_figures_from_the_beginning(tiny, clips, made, tmp_path):
    """The figures before the resume are in the checkpoint; a card that the user changed stays."""
    out = tmp_path / "out"
    shutil.copytree(made, out)
    base = str(made.parent / "base")
    options = {"log_steps": 1, "lr": 0.01, "base_ckpt": base, "eval_manifest": str(clips), "val_steps": 1}
    first = read_log(out)[-1]["step"]
    result = run_training(settings(tiny, clips, out, resume="latest", max_steps=first + 1, **options))
    assert (result.milestones.first_step.step, result.milestones.last_step.step) == (1, first + 1)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"| optimizer steps | {first + 1} |" in card
    assert "| training, first logged step | 1 |" in card
    changed = card.replace("# LoRA adapter", "# My voice, a LoRA adapter")
    (out / "README.md").write_text(changed, encoding="utf-8")
    run_training(settings(tiny, clips, out, resume="latest", max_steps=first + 2, **options))
    assert (out / "README.md").read_text(encoding="utf-8") == changed


@pytest.mark.parametrize(
    ("before", "is_replaced"),
    [
        (None, True),
        ("# Model Card for Model ID\n\n- **Developed by:** [More Information Needed]\n", True),
        ("# My notes\n", False),
        ("", False),
        (b"\xff\xfe", False),
    ],
)
def test_whose_card_is_replaced(tmp_path, before, is_replaced):
    """A template that nobody filled in, and no file of the user's."""
    if before is not None:
        (tmp_path / "README.md").write_bytes(before if isinstance(before, bytes) else before.encode())
    assert write_card(tmp_path, "# Card\n") is is_replaced
    assert (own_card(tmp_path) is not None) is is_replaced


def test_a_folder_in_the_place_of_the_card_stays(tmp_path):
    """A training does not fail for its card."""
    (tmp_path / "README.md").mkdir()
    assert not write_card(tmp_path, "# Card\n")


def test_an_exported_checkpoint_has_a_card_of_its_own(made, tmp_path):
    """The data, settings and figures of the training, and lines that need no peft; without them if the card is not."""
    export_model(str(made), tmp_path / "whole")
    card = (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    data = assert_valid_for_the_hub(card)
    assert data["library_name"] == "transformers"
    assert "lora" not in data["tags"]
    assert "say --base_ckpt . " in card
    for heading in ("## Data", "## Training", "## Results", "## Versions", "## Licence"):
        assert card.count(f"{heading}\n") == 1
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("# Mine\n")
    export_model(str(tmp_path / "out"), tmp_path / "other")
    plain = (tmp_path / "other" / "README.md").read_text(encoding="utf-8")
    assert_valid_for_the_hub(plain)
    assert "## Data" not in plain


V2 = FAMILIES["higgs-audio-v2"]
REFERENCES = [
    (DEFAULT_BASE_CKPT, "higgs-audio-v2-generation-3B-base", DEFAULT_BASE_CKPT),
    ("/home/ann/.cache/hub/models--an-owner--a.base/snapshots/0a1b2c", "a.base", "an-owner/a.base"),
    ("/home/ann/private/base-7", "base-7", None),
]


@pytest.mark.parametrize(("base_ckpt", "name", "hub_id"), REFERENCES)
def test_the_base_is_named_as_on_the_hub(base_ckpt, name, hub_id):
    """A folder gives its last part alone; the Hub's cache gives the repository."""
    reference = reference_to(base_ckpt)
    assert (reference.name, reference.hub_id) == (name, hub_id)
    data = assert_valid_for_the_hub(whole_card(reference, V2, "native", None))
    assert data.get("base_model") == hub_id
    assert "ann" not in whole_card(reference, V2, "native", None)


@pytest.mark.parametrize(
    ("base_ckpt", "licence"),
    [
        (DEFAULT_BASE_CKPT, "boson-higgs-audio-2-community-license"),
        ("bosonai/higgs-tts-2-3b-base", "boson-higgs-audio-2-community-license"),
        ("bosonai/higgs-tts-3-4b", "research-and-non-commercial"),
        ("bosonai/higgs-audio-v3-tts-4b", "research-and-non-commercial"),
    ],
)
def test_the_licence_of_higgs_audio(base_ckpt, licence):
    """Its card says "other", and the licence has a name and a place."""
    reference = reference_to(base_ckpt)
    data = assert_valid_for_the_hub(whole_card(reference, V2, "native", None))
    assert data["license_name"] == licence
    assert data["license_link"] == f"https://huggingface.co/{base_ckpt}/blob/main/LICENSE"


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("license: Our Licence 2", {"license": "other", "license_name": "our-licence-2"}),
        ("license: other\nlicense_name: ours\nlicense_link: LICENSE", {"license": "other", "license_name": "ours"}),
        ("license: [mit, apache-2.0]", {}),
        ("license: '", {}),
        ("pipeline_tag: text-to-speech", {}),
    ],
)
def test_a_licence_that_the_hub_would_refuse(tmp_path, metadata, licence):
    """Identifiers that the Hub lacks become "other" with a name; a link into a folder is left out."""
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n")
    assert reference_to(str(tmp_path)).licence == licence
    assert_valid_for_the_hub(whole_card(BaseReference("x", None, licence), V2, "native", None))


def test_no_card_is_written_into_checkpoints(made):
    """Neither ours, which describes the end, nor peft's template."""
    assert list(made.glob("checkpoint-*"))
    assert not list(made.glob("checkpoint-*/README.md"))


def test_a_card_of_tts_3_tells_what_its_servers_load():
    """Commands that would fail are not told: of the port, of an adapted head, of a rank that no server takes."""
    family = FAMILIES["higgs-tts-3"]
    given = {"folder": ".", "base": "base"}
    named = family.adapter_usage(**given, rank=32, targets=("q_proj",))
    assert "as a named voice of `base`" in named
    assert "export-model . merged\nvllm-omni serve merged" in named
    assert "has rank 64" in family.adapter_usage(**given, rank=64, targets=("q_proj",))
    assert "export-model . merged --layout port" in family.adapter_usage(
        **given, rank=8, targets=("q_proj", "audio_head")
    )
    assert "sgl-omni serve --model-path ." in family.whole_usage(folder=".", layout="original")
    assert "serve" not in family.whole_usage(folder=".", layout="port")
