"""Audio previews of a training on the device."""

import json

import soundfile

from higgs_audio_trainer.demo.run import run_demo


def test_previews_are_decoded(device, tmp_path):
    """A training on the device links WAV files of predictions and labels, and writes each file."""
    more = [("log_audio", 1), ("sinks", "jsonl"), ("strict_logging", True), ("say_steps", 0)]
    more += [("extra", {"use_cpu": True})] if device == "cpu" else []
    run_demo(tmp_path / "demo", max_steps=1, seed=0, log_steps=1, more=more)
    run = tmp_path / "demo/run"
    events = list(map(json.loads, (run / "events/rank00000-attempt000.jsonl").read_bytes().splitlines()))
    [start] = [event for event in events if event["event"] == "run_start"]
    assert start["device"].startswith(device) or device == "cuda"
    linked = [event for event in events if event.get("predicted_audio")]
    assert linked
    for event in linked:
        assert (
            soundfile.info(run / event["predicted_audio"]).frames == soundfile.info(run / event["label_audio"]).frames
        )
