"""The table of methods and cards in `docs/methods.md`: made by a script, and every method in it trains."""

from importlib.util import find_spec

import pytest

from benchmarks.methods import CARDS_GB, METHODS, PAGE, largest_batch, row
from higgs_audio_trainer.cli import main
from tests.families import every_family
from tests.test_run import read_log

LINES = PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("family", ["higgs-audio-v2", "higgs-tts-3"])
def test_a_row_is_that_of_the_script(family):
    """A row that is made anew is in the page, so the estimates are those of today."""
    lora = next(method for method in METHODS if method.name == "LoRA")
    assert row(family, lora, 10.0) in LINES


def test_every_method_has_a_row_for_each_family_and_length():
    """The page has each method's flags, and a row for each length of clips in the table of each family."""
    for method in METHODS:
        assert sum(line.startswith(f"| {method.name} | ") for line in LINES) == 2 * 2 + bool(method.flags)
        assert f"| {method.name} | `{method.flags}` |" in LINES or not method.flags


def test_larger_cards_hold_larger_batches():
    """A card holds the clips that are left beside the first, and none if the first does not fit."""
    batches = [largest_batch(10 * 2**30, 2**30, card * 2**30) for card in CARDS_GB]
    assert batches == [0, 2, 6, 14, 30, 32]


@every_family
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_trains(method, tiny, clips, tmp_path):
    """Each method of the table makes two steps of the tiny model, with its flags as printed."""
    needs = any(word in method.flags for word in ("bnb", "load_in"))
    if needs and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    here = ["--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--train_manifest", clips]
    run = ["--output_dir", tmp_path / "out", "--codes_dir", tmp_path / "codes", "--use_cpu", "true", "--max_steps", 2]
    quiet = ["--grad_accum", 1, "--log_steps", 1, "--sinks", "jsonl", "--say_steps", 0]
    assert main(["train", *map(str, [*here, *run, *quiet]), *method.flags.split()]) == 0
    log = read_log(tmp_path / "out")
    losses = [event["loss"] for event in log if event["event"] == "train_step"]
    assert len(losses) == 2
    assert losses[0] > 0
    assert log[-1]["reason"] == "completed"
