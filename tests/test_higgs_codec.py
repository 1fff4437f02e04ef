"""The Higgs codec: loaded without torchaudio, the codes of transformers' own processor, and a whole training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers
from transformers import AutoTokenizer, DacFeatureExtractor, DacModel, HiggsAudioV2Processor, processing_utils
from transformers.audio_utils import load_audio as load_as_transformers

from higgs_audio_trainer.data.audio import load_audio, resample
from higgs_audio_trainer.data.codec import Codec
from higgs_audio_trainer.data.higgs_codec import higgs_codec_class
from higgs_audio_trainer.data.sinc_resampling import resample_sinc
from higgs_audio_trainer.errors import UserError
from tests.samples import entry, write_manifest
from tests.test_run import read_log

RATES_HZ = ((24_000, 16_000), (16_000, 24_000), (44_100, 16_000), (24_000, 24_000))
LENGTHS = (1, 2, 480, 960, 1_001, 24_000, 720_000)


@pytest.fixture(scope="module")
def speech(clips):
    """Read the bundled clips at 24 kHz by name."""
    mixes = {path.stem: load_audio(path) for path in sorted(clips.parent.glob("*.flac"))}
    return {name: resample(mix.waveform, rate, 24_000) for name, (mix, rate) in mixes.items()}


@pytest.fixture(scope="module")
def codec(tiny_higgs):
    """Open the tiny Higgs codec."""
    return Codec(str(tiny_higgs.codec_dir))


@pytest.fixture
def plain_torchaudio():
    """Return a folder with a torchaudio whose compiled parts are removed. The rest of torchaudio is plain torch."""
    folder = os.environ.get("PLAIN_TORCHAUDIO")
    if folder is None and "CI" not in os.environ:
        pytest.skip("PLAIN_TORCHAUDIO names no folder; CI unpacks one")
    assert folder is not None, "PLAIN_TORCHAUDIO names no folder; .ci/run unpacks one"
    return folder


def test_a_device_without_memory_is_named(tiny, monkeypatch):
    """The message has the three ways out."""
    codec = Codec(str(tiny.codec_dir))

    def fail(*_arguments, **_more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(DacModel, "encode", fail)
    with pytest.raises(UserError, match=r"cpu has no memory left.*--workers.*--max_seconds.*--device"):
        codec.encode(np.zeros(24_000, dtype=np.float32))


@pytest.mark.parametrize("device", ["no_such", "cuda:99"])
def test_a_device_that_cannot_be_used_is_named(tiny, device):
    """Before any clip is encoded."""
    with pytest.raises(UserError, match=f"--device {device}: cannot be used: .*Name another device"):
        Codec(str(tiny.codec_dir), device=device).encode(np.zeros(24_000, dtype=np.float32))


BY_TORCHAUDIO = f"""
import sys
import numpy as np, torch, torchaudio
from higgs_audio_trainer.data.audio import load_audio, resample
from higgs_audio_trainer.data.codec import Codec
codec_dir, clip, out = sys.argv[1:]
mix, rate = load_audio(__import__("pathlib").Path(clip))
codes = Codec(codec_dir).encode(resample(mix.waveform, rate, 24_000))
found = sys.modules["transformers.models.higgs_audio_v2_tokenizer.modeling_higgs_audio_v2_tokenizer"].torchaudio
assert found is torchaudio, found
noise = torch.rand(2, 720_000, generator=torch.manual_seed(0)) * 2 - 1
resampled = {{f"{{a}}-{{b}}-{{n}}": torchaudio.functional.resample(noise[:, :n], a, b).numpy()
             for a, b in {RATES_HZ} for n in {LENGTHS}}}
np.savez(out, codes=codes, **resampled)
"""


def test_resampling_and_codes_equal_those_of_torchaudio(plain_torchaudio, codec, tiny_higgs, clips, speech, tmp_path):
    """A torchaudio that loads is used. Without torchaudio samples are equal within 1e-6, and codes are equal."""
    arguments = [tiny_higgs.codec_dir, clips.parent / "en-1.flac", tmp_path / "theirs.npz"]
    environment = os.environ | {"PYTHONPATH": plain_torchaudio}
    subprocess.run([sys.executable, "-c", BY_TORCHAUDIO, *arguments], env=environment, check=True, capture_output=True)
    theirs = np.load(tmp_path / "theirs.npz")
    noise = torch.rand(2, 720_000, generator=torch.manual_seed(0)) * 2 - 1
    for orig_freq, new_freq in RATES_HZ:
        for length in LENGTHS:
            ours = resample_sinc(noise[:, :length], orig_freq, new_freq).numpy()
            np.testing.assert_allclose(ours, theirs[f"{orig_freq}-{new_freq}-{length}"], rtol=0, atol=1e-6)
    assert np.array_equal(codec.encode(speech["en-1"]), theirs["codes"])


def test_a_resampled_tone_keeps_its_level():
    """Tones far below the cutoff frequency pass, and tones above are removed."""
    seconds = torch.arange(24_000, dtype=torch.float64) / 24_000
    for hz, expected in ((440, 1.0), (4_000, 1.0), (11_000, 0.0)):
        resampled = resample_sinc(torch.sin(2 * torch.pi * hz * seconds), 24_000, 16_000)[2_000:-2_000]
        assert float(resampled.square().mean().sqrt()) * 2**0.5 == pytest.approx(expected, abs=0.01)


@pytest.mark.skipif(transformers.utils.is_torchaudio_available(), reason="torchaudio is installed")
def test_nothing_believes_that_torchaudio_is_there(codec, speech):
    """The replacement of torchaudio is visible to the codec's module alone."""
    codec.encode(speech["en-1"])
    assert sys.modules.get("torchaudio") is None
    assert not transformers.utils.is_torchaudio_available()
    module = sys.modules[higgs_codec_class().__module__]
    assert module.torchaudio.functional.resample is resample_sinc
    assert higgs_codec_class() is module.HiggsAudioV2TokenizerModel
    with pytest.raises(ModuleNotFoundError):
        __import__("torchaudio")


def test_codes_are_spread_and_tell_clips_apart(codec, speech):
    """Each codebook of the tiny codec uses many codes, and two clips share few. Decoded speech is as loud as speech."""
    codes = {name: codec.encode(waveform) for name, waveform in speech.items()}
    together_KN = np.concatenate(list(codes.values()), axis=1)
    assert together_KN.shape[0] == 8
    assert min(len(np.unique(row)) for row in together_KN) > 0.6 * together_KN.shape[1]
    first, second = codes["en-1"][:, :50], codes["ar-1"][:, :50]
    assert (first == second).mean() < 0.05
    decoded = codec.decode(codes["en-1"])
    assert len(decoded) == 960 * codes["en-1"].shape[1]
    assert 0.01 < decoded.std() < 0.5


def test_clips_are_encoded_alone(codec, speech):
    """A clip's codes do not depend on other clips. Padding to a longer clip would change most codes.

    The Higgs codec normalizes over time and attends to all frames without a mask, so clips are never padded to a batch.
    """
    names = ["en-2", "ar-3", "en-1", "en-2"]
    many = [codec.encode(speech[name]) for name in names]
    for name, codes_KF in zip(names, many, strict=True):
        assert np.array_equal(codes_KF, Codec(codec.name).encode(speech[name]))
    padded = np.pad(speech["en-2"], (0, len(speech["ar-3"]) - len(speech["en-2"])))
    assert (codec.encode(padded)[:, : many[0].shape[1]] == many[0]).mean() < 0.5


def codes_of_processor(processor, waveform, num_codebooks=8):
    """Encode a clip with transformers' processor, and undo the delay pattern."""
    inputs = processor(text="<|AUDIO_OUT|>", audio=waveform, sampling_rate=24_000, return_tensors="pt")
    delayed_KT = inputs["audio_input_ids"][0].numpy().T
    frames = delayed_KT.shape[1] - num_codebooks + 1
    return np.stack([row[k : k + frames] for k, row in enumerate(delayed_KT)])[:, 1:-1]


@pytest.mark.parametrize("kind", ["higgs", "dac"])
def test_codes_equal_those_of_transformers_processor(kind, tiny, tiny_higgs, speech, tmp_path, monkeypatch):
    """The same file has the same frames and codes, at every rate and from a frame to 30 s."""
    folders = tiny_higgs if kind == "higgs" else tiny
    model_class = higgs_codec_class() if kind == "higgs" else DacModel
    model = model_class.from_pretrained(folders.codec_dir).eval()
    if kind == "dac":
        model.config.num_quantizers = 8  # by its name in the Higgs codec's configuration
    # The processor accepts the class only where torchaudio is installed.
    monkeypatch.setattr(
        processing_utils.transformers_module, "HiggsAudioV2TokenizerModel", higgs_codec_class(), raising=False
    )
    extractor = DacFeatureExtractor.from_pretrained(folders.codec_dir)
    processor = HiggsAudioV2Processor(extractor, AutoTokenizer.from_pretrained(folders.model_dir), model)
    codec = Codec(str(folders.codec_dir), num_codebooks=8)
    long = np.tile(np.concatenate(list(speech.values())), 2)
    for rate in (8_000, 16_000, 24_000, 44_100):
        recorded = soxr.resample(long, 24_000, rate)
        for samples in (rate // 25, rate // 25 + 41, rate // 8 + 1, 2 * rate + 17, *([30 * rate] * (rate == 44_100))):
            path = tmp_path / f"{rate}-{samples}.wav"
            soundfile.write(path, recorded[:samples], rate)
            mix, read_rate = load_audio(path)
            ours = codec.encode(resample(mix.waveform, read_rate, 24_000))
            with torch.inference_mode():
                theirs = codes_of_processor(processor, load_as_transformers(str(path), sampling_rate=24_000))
            assert np.array_equal(ours, theirs), path.name


def with_bandwidths(tiny_higgs, folder, *kbps):
    """Copy the tiny codec with other bandwidths than that of its 8 codebooks, and with 16 codebooks."""
    model = higgs_codec_class().from_pretrained(tiny_higgs.codec_dir)
    config = type(model.config).from_dict(model.config.to_dict() | {"target_bandwidths": list(kbps)})
    larger = higgs_codec_class()(config)
    missing, unexpected = larger.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("quantizer.quantizers.") for name in missing)
    larger.save_pretrained(folder)
    return str(folder)


def test_a_codec_of_more_codebooks_gives_those_of_the_model(tiny_higgs, codec, speech, tmp_path):
    """The codec is asked for the bandwidth of the model's codebooks, or the next one, and the cache is another."""
    expected_KF = codec.encode(speech["en-1"])
    larger = with_bandwidths(tiny_higgs, tmp_path / "larger", 0.5, 1, 1.5, 2, 4)
    assert Codec(larger).encode(speech["en-1"]).shape == (16, expected_KF.shape[1])
    for num_codebooks in (8, 6, 5):
        asked = Codec(larger, num_codebooks=num_codebooks)
        assert np.array_equal(asked.encode(speech["en-1"]), expected_KF[:num_codebooks])
        assert asked.fingerprint != Codec(larger).fingerprint
    assert Codec(larger, num_codebooks=16).fingerprint == Codec(larger).fingerprint
    assert Codec(larger, num_codebooks=12).encode(speech["en-1"]).shape == (12, expected_KF.shape[1])


def test_a_dac_of_more_codebooks_gives_those_of_the_model(tiny, speech):
    """A DAC is asked for the number of codebooks."""
    few, all_of_them = (Codec(str(tiny.codec_dir), num_codebooks=count).encode(speech["en-1"]) for count in (3, None))
    assert np.array_equal(few, all_of_them[:3])


@pytest.mark.parametrize("kind", ["higgs", "dac"])
def test_a_codec_of_too_few_codebooks_is_a_user_error(kind, tiny, tiny_higgs):
    """The error comes before anything is encoded."""
    folder = (tiny_higgs if kind == "higgs" else tiny).codec_dir
    with pytest.raises(
        UserError, match=r"expected at least 9 codebooks, as in the model, got 8\. Use the codec of --ba"
    ):
        Codec(str(folder), num_codebooks=9)


def test_a_higgs_codec_without_bandwidths_is_a_user_error(tmp_path):
    """A configuration that gives no codebooks is refused in words."""
    (tmp_path / "config.json").write_text('{"model_type": "higgs_audio_v2_tokenizer", "target_bandwidths": []}')
    with pytest.raises(UserError, match="expected at least 1 codebooks, as in the model, got 0"):
        Codec(str(tmp_path))


WITH_BROKEN_TORCHAUDIO = """
import sys
from higgs_audio_trainer.cli import main
for arguments in sys.stdin.read().splitlines():
    assert main(arguments.split()) == 0, arguments
assert sys.modules["torchaudio"] is None
"""


def test_a_training_with_the_higgs_codec_beside_a_broken_torchaudio(tmp_path, clips):
    """Every command works in a real process with a torchaudio for another torch: checkpoint, codes, training, audio.

    Previews are decoded in a process of their own, which finds the broken torchaudio too.
    """
    broken = tmp_path / "broken" / "torchaudio"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    manifest = write_manifest(
        tmp_path / "m.jsonl", *(entry(name, str(clips.parent / f"{name}.flac")) for name in ("en-2", "en-4"))
    )
    base = f"--base_ckpt {tmp_path}/tiny/model --audio_tokenizer {tmp_path}/tiny/codec --codes_dir {tmp_path}/codes"
    train = (
        f"train --train_manifest {manifest} {base} --output_dir {tmp_path}/out --max_steps 2 --log_steps 1 "
        "--batch_size 2 --grad_accum 1 --log_audio 1 --sinks jsonl --dataloader_num_workers 1 "
        "--dataloader_multiprocessing_context spawn"
    )
    lines = [
        f"tiny {tmp_path}/tiny --codec higgs --layers 1 --hidden_size 64",
        f"prepare --train_manifest {manifest} {base} --device cpu",
        train,
        f"show --summary {tmp_path}/out",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITH_BROKEN_TORCHAUDIO],
        env=os.environ | {"PYTHONPATH": str(broken.parent)},
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "torchaudio" not in done.stdout + done.stderr
    assert len(list(Path(tmp_path, "codes").rglob("*.i16"))) == 1
    events = read_log(tmp_path / "out")
    assert events[-1]["reason"] == "completed"
    assert events[-1]["events_lost"] == 0
    linked = {event["label_audio"] for event in events if event["event"] == "prediction_sample"} - {None}
    assert len(linked) >= 2
    for name in linked:
        samples, rate = soundfile.read(tmp_path / "out" / name)
        assert rate == 24_000
        assert samples.std() > 0.01


def test_the_layout_is_that_of_the_published_codec(tiny_higgs):
    """The tiny codec has the class, strides, rates and codebooks of the published codec, and all weights."""
    model, info = higgs_codec_class().from_pretrained(tiny_higgs.codec_dir, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    config = json.loads((tiny_higgs.codec_dir / "config.json").read_text())
    assert config["architectures"] == ["HiggsAudioV2TokenizerModel"]
    assert (config["model_type"], config["sample_rate"], config["codebook_size"]) == (
        "higgs_audio_v2_tokenizer",
        24_000,
        1024,
    )
    assert config["acoustic_model_config"]["downsampling_ratios"] == [8, 5, 4, 2, 3]
    assert (model.config.hop_length, model.config.num_quantizers, model.config.frame_rate) == (960, 8, 25)
    assert (tiny_higgs.codec_dir / "preprocessor_config.json").exists()
