"""Probes: what a model says by itself while it trains, and the samples whose predictions are followed."""

import os
import signal
import threading
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import soundfile
import torch

from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.errors import LoggingError, UserError
from higgs_audio_trainer.families.speech import Decoding
from higgs_audio_trainer.recording import decoder_process
from higgs_audio_trainer.run import run_training
from higgs_audio_trainer.training.best_adapter import BestAdapter
from higgs_audio_trainer.training.collective import rank_0_alone
from higgs_audio_trainer.training.probes import Probes
from higgs_audio_trainer.voice.generation import speak
from higgs_audio_trainer.voice.measures import silence_of
from higgs_audio_trainer.voice.speech_prompt import new_prompt
from tests import forks
from tests.families import every_family
from tests.samples import entry, write_manifest, write_tone
from tests.scoring_models import write_ctc, write_xvector
from tests.test_run import StopAt, read_log, settings, stable
from tests.test_schemas import is_valid


@pytest.fixture(scope="module")
def runs(tiny, clips, tmp_path_factory):
    """Two runs that differ in their probes alone, with dropout so that they depend on the random generators."""
    folder = tmp_path_factory.mktemp("probes")
    common = {"eval_manifest": str(clips), "val_steps": 2, "lora_dropout": 0.2, "lr": 1e-2, "log_codebooks": "0,3"}
    spoken = settings(tiny, clips, folder / "with", log_probes=2, say_steps=None, **common)
    run_training(spoken)
    run_training(settings(tiny, clips, folder / "without", say_steps=0, **common))
    return folder


def events_of(folder, name):
    """Read the events of one kind."""
    return [event for event in read_log(folder) if event["event"] == name]


class TestSpeaking:
    @every_family
    def test_the_training_is_not_disturbed(self, runs):
        """Adapters are equal bit by bit with probes and without, and so are all other events."""
        adapters = [(runs / name / "adapter_model.safetensors").read_bytes() for name in ("with", "without")]
        assert adapters[0] == adapters[1]
        with_probes = [
            event
            for event in read_log(runs / "with")
            if event["event"] != "generation_sample" and event.get("split") != "probe"
        ]
        volatile = {"seq", "config", "events_written", "run_id"}
        kept = [
            [{name: value for name, value in stable(event).items() if name not in volatile} for event in events]
            for events in (with_probes, read_log(runs / "without"))
        ]
        assert kept[0] == kept[1]

    @every_family
    def test_the_first_samples_are_spoken_at_each_evaluation(self, runs):
        """By default as many samples as are logged, greedily, with events that fit the schema and with files."""
        events = events_of(runs / "with", "generation_sample")
        assert [(event["step"], event["probe"]) for event in events] == [
            (2, "en-1"),
            (2, "en-2"),
            (4, "en-1"),
            (4, "en-2"),
        ]
        assert all(is_valid(event) for event in events)
        assert {event["decoding"]["temperature"] for event in events} == {0.0}
        assert len({event["fingerprint"] for event in events}) == 2
        for event in events:
            waveform, rate = soundfile.read(runs / "with" / event["audio"], dtype="float32")
            assert event["silence_share"] == pytest.approx(silence_of(waveform, rate), abs=0.02)
            assert event["peak"] == pytest.approx(np.abs(waveform).max(), abs=1e-3)
            assert [end["codebook"] for end in event["first"]] == [0, 3]
            assert len(event["agreement"]) == 8

    @every_family
    def test_an_event_tells_what_the_saved_adapter_says(self, runs, tiny):
        """The event of the last step has the codes that `say` gets from the adapter, by another path to the prompt."""
        [event] = [e for e in events_of(runs / "with", "generation_sample") if (e["step"], e["probe"]) == (4, "en-1")]
        model = open_speaking_model(str(runs / "with"), base_ckpt=None, audio_tokenizer=None, device="cpu")
        prompt = new_prompt("en-1", event["text"], model.checkpoint)
        assert prompt.inputs.ref.fingerprint == event["fingerprint"]
        decoding = Decoding(max_frames=event["decoding"]["max_frames"])
        [speech] = speak(model.model, [prompt], decoding, model.checkpoint)
        assert (speech.codes_KT.shape[1], speech.stopped) == (event["frames"], event["stopped"])
        assert event["first"][1]["codes"] == speech.codes_KT[3, :5].tolist()
        waveform, _ = soundfile.read(runs / "with" / event["audio"], dtype="float32")
        np.testing.assert_allclose(waveform, Codec(str(tiny.codec_dir)).decode(speech.codes_KT), atol=2 / 2**15)

    def test_probes_of_a_file(self, tiny, clips, tmp_path):
        """Texts of a file are spoken every N steps, with the voice of a recording, and without labels."""
        write_tone(tmp_path / "voice.wav")
        lines = [
            {"id": "a/../b", "text": "Guten Morgen.", "ref_audio": "voice.wav", "ref_text": "A tone."},
            {"id": "a_.._b", "text": "Bonjour.", "scene": "A quiet room."},
        ]
        (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
        out = tmp_path / "out"
        run_training(
            settings(tiny, clips, out, say_prompts=str(tmp_path / "prompts.jsonl"), say_steps=0.5, say_temperature=0.7)
        )
        events = events_of(out, "generation_sample")
        assert [(event["step"], event["probe"]) for event in events] == [
            (step, probe) for step in (2, 4) for probe in ("a/../b", "a_.._b")
        ]
        assert {(event["frames_label"], event["agreement"]) for event in events} == {(None, None)}
        names = ["step-000002-probe-a_.._b.wav", "step-000002-probe-a_.._b-2.wav"]
        assert sorted(path.name for path in (out / "audio").glob("step-000002*")) == sorted(names)

    def test_scores(self, tiny, clips, tmp_path):
        """The decoder process scores speech by models of recognition and of speakers."""
        scores = {"say_asr": str(write_ctc(tmp_path / "asr")), "say_speaker": str(write_xvector(tmp_path / "speaker"))}
        run_training(settings(tiny, clips, tmp_path / "out", max_steps=1, say_steps=1, **scores))
        for event in events_of(tmp_path / "out", "generation_sample"):
            assert event["cer"] >= 0
            assert event["wer"] >= 0
            assert event["speaker_similarity"] is None or -1 <= event["speaker_similarity"] <= 1
        assert read_log(tmp_path / "out")[-1]["events_lost"] == 0

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"say_steps": 1, "say_asr": "none"}, "--say_asr none: expected a folder, or a model in the cache "),
            ({"say_steps": 2, "say_prompts": "none.txt"}, "--say_prompts: .*none.txt: No such file"),
            ({"say_prompts": __file__}, "--say_prompts: expected steps at which to speak: --say_steps N"),
            ({"keep_best": "silence_share"}, "--keep_best silence_share: expected a run that speaks"),
            ({"keep_best": "cer", "say_steps": 1}, "--keep_best cer: expected --say_asr"),
            ({"keep_best": "audio_accuracy_per_codebook", "sinks": "none"}, "per_codebook: expected a sink"),
            ({"keep_best": "los"}, "--keep_best: expected one of loss, .* got 'los'. Did you mean loss"),
        ],
    )
    def test_bad_settings(self, tiny, clips, tmp_path, changes, said):
        """Bad settings end the run before the training, and leave nothing behind."""
        with pytest.raises(UserError, match=said):
            run_training(settings(tiny, clips, tmp_path / "out", **changes))
        assert not (tmp_path / "out").exists()

    def test_an_error_is_counted(self, tiny, clips, tmp_path, monkeypatch):
        """Speech that fails costs the run nothing but its events, unless logging is strict."""
        monkeypatch.setattr(Probes, "speak", lambda *_args, **_more: 1 / 0)
        run_training(settings(tiny, clips, tmp_path / "out", max_steps=1, say_steps=1))
        assert read_log(tmp_path / "out")[-1]["events_lost"] == 1
        with pytest.raises(LoggingError, match="generation"):
            run_training(settings(tiny, clips, tmp_path / "strict", max_steps=1, say_steps=1, strict_logging=True))

    def test_without_a_decoder(self, tiny, clips, tmp_path, monkeypatch):
        """The codes are logged although the waveforms are not known."""
        monkeypatch.setattr(decoder_process, "_DECODER", ("false",))
        run_training(settings(tiny, clips, tmp_path / "out", max_steps=1, say_steps=1))
        events = events_of(tmp_path / "out", "generation_sample")
        assert [(event["audio"], event["silence_share"]) for event in events] == [(None, None)] * 2
        assert all(event["frames"] and event["first"][0]["codes"] for event in events)
        assert read_log(tmp_path / "out")[-1]["events_lost"] == 2

    def test_a_signal_ends_the_speech(self, tiny, clips, tmp_path, monkeypatch):
        """The run stops with a checkpoint, and speech that was cut off is no event."""
        spoken = Probes.speak

        def interrupted(self, model, step, *, is_asked_to_stop):
            os.kill(os.getpid(), signal.SIGINT)
            return spoken(self, model, step, is_asked_to_stop=is_asked_to_stop)

        monkeypatch.setattr(Probes, "speak", interrupted)
        result = run_training(settings(tiny, clips, tmp_path / "out", say_steps=2))
        assert (result.step, result.stopped_by) == (3, signal.SIGINT)
        assert events_of(tmp_path / "out", "generation_sample") == []

    def test_a_stop_keeps_what_was_spoken(self, tiny, clips, tmp_path, monkeypatch):
        """Speech whose decoder is still busy at a stop is logged without its waveform."""
        monkeypatch.setattr(decoder_process, "_DECODER", ("sleep", "60"))
        stop = ("stop", StopAt(2))
        with pytest.raises(KeyboardInterrupt):
            run_training(settings(tiny, clips, tmp_path / "out", say_steps=1, save_steps=2), more_sinks=[stop])
        events = events_of(tmp_path / "out", "generation_sample")
        assert [event["step"] for event in events] == [1, 1, 2, 2]
        assert {event["audio"] for event in events} == {None}


class TestFollowedPredictions:
    def test_probes_at_each_logged_step(self, runs):
        """The same samples at each logged step, apart from the samples of the step and of the evaluation."""
        samples = [event for event in events_of(runs / "with", "prediction_sample") if event["split"] == "probe"]
        found = [(event["step"], event["sample_index"], event["sample_id"], event["codebook"]) for event in samples]
        series = [(index, name, k) for index, name in enumerate(("en-1", "en-2")) for k in (None, 0, 3)]
        assert found == [(step, *one) for step in (1, 2, 4) for one in series]
        assert all(is_valid(event) for event in samples)

    @every_family
    def test_they_equal_the_evaluation(self, runs):
        """After a step, a probe's predictions are those of the evaluation of the same sample."""
        names = ("first", "last", "num_correct", "num_targets", "fingerprint")
        both = {
            split: {
                (event["sample_id"], event["codebook"]): [event[name] for name in names]
                for event in events_of(runs / "with", "prediction_sample")
                if event["step"] == 4 and event["split"] == split
            }
            for split in ("probe", "eval")
        }
        assert both["probe"] == both["eval"]

    def test_without_samples_of_the_steps(self, tiny, clips, tmp_path):
        """`log_samples=0` logs steps without samples, and the probes are followed as before."""
        out = tmp_path / "out"
        run_training(settings(tiny, clips, out, log_samples=0, log_probes=1, log_steps=1, max_steps=1))
        samples = events_of(out, "prediction_sample")
        assert [(event["split"], event["modality"]) for event in samples] == [("probe", "text"), ("probe", "audio")]
        assert events_of(out, "train_step")[0]["audio_targets"] > 0


class TestBest:
    def test_the_best_evaluation_is_kept(self, runs, tiny):
        """The folder has the adapter of the step with the lowest loss, which `say` can use."""
        losses = {event["step"]: event["loss"] for event in events_of(runs / "with", "eval_result")}
        best = BestAdapter(runs / "with", "loss")
        assert (best.step, best.value) == min(losses.items(), key=lambda item: item[1])
        checkpoint = runs / "with" / f"checkpoint-{best.step}"
        if checkpoint.exists():
            assert (best.folder / "adapter_model.safetensors").read_bytes() == (
                checkpoint / "adapter_model.safetensors"
            ).read_bytes()
        open_speaking_model(str(best.folder), base_ckpt=None, audio_tokenizer=None, device="cpu")

    def test_a_field_of_speech_decides(self, tiny, clips, tmp_path):
        """The decoder's measures are awaited, and the first best step stays."""
        out = tmp_path / "out"
        run_training(settings(tiny, clips, out, say_steps=1, max_steps=2, keep_best="silence_share"))
        shares = {}
        for event in events_of(out, "generation_sample"):
            shares.setdefault(event["step"], []).append(event["silence_share"])
        means = {step: sum(values) / len(values) for step, values in shares.items()}
        assert BestAdapter(out, "silence_share").step == min(means, key=means.get)

    def test_a_resumed_run_keeps_it(self, tiny, clips, tmp_path):
        """A later evaluation that is worse does not replace the best of the earlier attempt."""
        out = tmp_path / "out"
        common = {"eval_manifest": str(clips), "val_steps": 1, "say_steps": 0}
        run_training(settings(tiny, clips, out, max_steps=1, **common))
        state = orjson.loads((out / "best" / "best.json").read_bytes())
        assert (state["field"], state["step"]) == ("loss", 1)
        (out / "best" / "best.json").write_bytes(orjson.dumps(state | {"value": -1.0}))
        run_training(settings(tiny, clips, out, max_steps=2, resume="latest", **common))
        assert orjson.loads((out / "best" / "best.json").read_bytes())["step"] == 1

    def test_a_best_step_that_was_given_up(self, tmp_path):
        """A run that resumes from an earlier step, or begins anew, does not know the best of later steps."""
        kept = BestAdapter(tmp_path, "loss")
        kept.keep(1.0, 400, lambda folder: folder.mkdir(), is_first=True)
        assert [BestAdapter(tmp_path, "loss", done=done).step for done in (400, 100, 0)] == [400, None, None]

    def test_a_disk_that_is_full(self, tmp_path):
        """The earlier adapter stays, and nothing else."""
        kept = BestAdapter(tmp_path, "loss")
        kept.keep(1.0, 1, lambda folder: folder.mkdir(), is_first=True)

        def full(folder):
            folder.mkdir()
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            kept.keep(0.5, 2, full, is_first=True)
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
        assert BestAdapter(tmp_path, "loss").step == 1

    @pytest.mark.parametrize(
        ("field", "values", "best"),
        [
            ("loss", (2.0, 1.0, float("nan"), 3.0), 2),
            ("wer", (None, 1.0, 0.5), 3),
            ("agreement", ((0.1, 0.3), (0.4, 0.2), (0.2, 0.2)), 2),
        ],
    )
    def test_which_is_better(self, tmp_path, field, values, best):
        """Lower losses and error rates, higher agreement; never an unknown value."""
        kept = BestAdapter(tmp_path, field)
        for step, value in enumerate(values, 1):
            better = kept.better_value([SimpleNamespace(**{field: value})])
            if better is not None:
                kept.keep(better, step, lambda folder: folder.mkdir(), is_first=True)
        assert (kept.step, BestAdapter(tmp_path, field).step) == (best, best)
        assert [path.name for path in tmp_path.iterdir()] == ["best"]


def _long_block(log):
    """On rank 0 take longer than a collective may; on the other rank wait."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=0.5))
    arguments = SimpleNamespace(world_size=2, process_index=rank)
    for block in ("one", "two"):
        with rank_0_alone(arguments, block) as is_first:
            if is_first:
                threading.Event().wait(1.0)  # longer than the collective's timeout
                log.with_suffix(f".{block}").write_text("done")
        assert log.with_suffix(f".{block}").exists(), "no rank leaves before rank 0"
    torch.distributed.barrier()


class TestRanks:
    def test_a_rank_waits_longer_than_a_collective(self, tmp_path):
        """The other rank waits for rank 0 in no collective, whose timeout would end the run."""
        ended = forks.ranks(tmp_path, _long_block, tmp_path / "log")
        assert [rank.status for rank in ended] == [0, 0], ended[1].err

    @pytest.mark.parametrize("more", [(), ("--fsdp", "full_shard")], ids=["DDP", "FSDP"])
    def test_two_ranks_speak_as_one(self, tiny, tmp_path, more):
        """Both ranks finish, with the events of one run, and speak what the whole model speaks."""
        samples = [entry(name, str(write_tone(tmp_path / f"{name}.wav"))) for name in ("one", "two", "three", "four")]
        manifest = write_manifest(tmp_path / "m.jsonl", *samples)
        paths = ("--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--train_manifest", manifest)
        steps = ("--eval_manifest", manifest, "--val_steps", 1, "--max_steps", 2, "--lr", 0, "--log_probes", 1)
        line = (*paths, *steps, "--output_dir", tmp_path / "out", "--use_cpu", "true", "--sinks", "jsonl", *more)
        ended = forks.ranks(tmp_path, forks.command, *line)
        assert [rank.status for rank in ended] == [0, 0], ended[0].err
        events = events_of(tmp_path / "out", "generation_sample")
        assert [(event["step"], event["probe"]) for event in events] == [(n, i) for n in (1, 2) for i in ("one", "two")]
        assert read_log(tmp_path / "out")[-1]["events_lost"] == 0
        assert BestAdapter(tmp_path / "out", "loss").step == 1
        base = open_speaking_model(None, base_ckpt=str(tiny.model_dir), audio_tokenizer="", device="cpu")
        for event in events:
            prompt = new_prompt(event["probe"], event["text"], base.checkpoint)
            decoding = Decoding(max_frames=event["decoding"]["max_frames"])
            [speech] = speak(base.model, [prompt], decoding, base.checkpoint)
            assert event["first"][0]["codes"] == speech.codes_KT[0, :5].tolist()
            assert event["frames"] == speech.codes_KT.shape[1]
