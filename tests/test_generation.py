"""Free generation: the codes of a computation step by step, the prompts of the training, and no trace afterwards."""

import random

import numpy as np
import pytest
import torch

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model
from higgs_audio_trainer.data.batch import PreparedSample
from higgs_audio_trainer.data.delay import delay_codes
from higgs_audio_trainer.data.manifest import read_manifest
from higgs_audio_trainer.families.speech import Decoding
from higgs_audio_trainer.families.v2.generation import speech_of
from higgs_audio_trainer.families.v2.model import HiggsAudioForTraining
from higgs_audio_trainer.voice.generation import speak
from higgs_audio_trainer.voice.speech_prompt import new_prompt, prompt_of
from tests.samples import write_manifest, write_tone


@pytest.fixture(scope="module")
def opened(tiny):
    """Load the tiny checkpoint."""
    return open_speaking_model(None, base_ckpt=str(tiny.model_dir), audio_tokenizer=None, device="cpu")


@pytest.fixture(scope="module")
def prompts(opened):
    """Make prompts of different lengths, one of them with a reference."""
    ids = opened.checkpoint.ids
    codes = np.random.default_rng(0).integers(0, 1024, (ids.num_codebooks, 5))
    return [
        new_prompt("a", "Hello.", opened.checkpoint),
        new_prompt("b", "A sentence with some more words.", opened.checkpoint, reference=("So I sound.", codes)),
        new_prompt("c", "Hm.", opened.checkpoint, scene="A quiet room."),
    ]


def step_by_step(model, prompt, ids, num_frames):
    """Generate without a cache and without `generate`. The rules of the delay pattern are written down here again."""
    K, stream, first_end = ids.num_codebooks, [], None
    while len(stream) < num_frames:
        frames = np.concatenate([prompt.inputs.audio_ids_FK, np.array(stream, dtype=np.int64).reshape(-1, K)])
        tokens = np.concatenate([prompt.inputs.input_ids, np.full(len(stream), ids.audio)])
        with torch.inference_mode():
            audio = torch.from_numpy(frames)[None] if len(frames) else None
            mask = None if audio is None else torch.ones(audio.shape[:2], dtype=torch.bool)
            made = model(torch.from_numpy(tokens)[None], audio_input_ids=audio, audio_input_ids_mask=mask)
        frame = made.logits[0, -1].view(K, -1).argmax(-1).numpy()
        place = len(stream)
        frame[place:] = ids.stream_bos
        if first_end is not None:
            frame[: place - first_end] = ids.stream_eos
        stream.append(frame)
        if first_end is None and (frame == ids.stream_eos).any():
            first_end = place
        if (frame == ids.stream_eos).all():
            break
    return np.array(stream)


def test_speech_is_what_a_computation_step_by_step_gives(opened, prompts):
    """With the most likely codes, in a batch as alone."""
    ids = opened.checkpoint.ids
    decoding = Decoding(max_frames=6)
    together = speak(opened.model, prompts, decoding, opened.checkpoint)
    for prompt, speech in zip(prompts, together, strict=True):
        expected = speech_of(step_by_step(opened.model, prompt, ids, 6 + ids.num_codebooks + 1), ids)
        assert speech.codes_KT.tolist() == expected.codes_KT[:, :6].tolist()
        assert speech.stopped == expected.stopped
        (alone,) = speak(opened.model, [prompt], decoding, opened.checkpoint)
        assert alone.codes_KT.tolist() == speech.codes_KT.tolist()


def test_the_prompt_is_that_of_the_training(opened, tmp_path):
    """The tokens and frames before the speech of a sample are the prompt to speak its text."""
    ids, tokenizer = opened.checkpoint.ids, opened.checkpoint.tokenizer
    write_tone(tmp_path / "a.wav")
    fields = {"text": "Good morning.", "scene": "A kitchen.", "ref_text": "Good night."}
    manifest = write_manifest(tmp_path / "m.jsonl", {"id": "a", "audio": "a.wav", "ref_audio": "a.wav", **fields})
    (sample,), _ = read_manifest(manifest)
    rng = np.random.default_rng(0)
    reference, label = (rng.integers(0, 1024, (ids.num_codebooks, frames)) for frames in (4, 7))
    prepared = PreparedSample("a", tuple(opened.checkpoint.tokenize(sample)), (reference, label), text="Good morning.")
    prompt = prompt_of(prepared, ids)
    ours = new_prompt("a", "Good morning.", opened.checkpoint, scene="A kitchen.", reference=("Good night.", reference))
    assert prompt.inputs.input_ids.tolist() == ours.inputs.input_ids.tolist()
    assert prompt.inputs.audio_ids_FK.tolist() == ours.inputs.audio_ids_FK.tolist()
    assert prompt.inputs.ref.fingerprint == ours.inputs.ref.fingerprint
    assert prompt.label_KT is label
    assert tokenizer.decode(prompt.inputs.input_ids).endswith("<|audio_out_bos|>")
    assert prompt_of(PreparedSample("t", tuple(opened.checkpoint.tokenize(sample))[:1]), ids) is None


def test_the_seed_decides_and_nothing_else_changes(tiny, opened, prompts):
    """The same seed gives the same speech. Modes, gradients and random generators are as before."""
    model = add_lora(HiggsAudioForTraining.from_pretrained(tiny.model_dir), r=4, alpha=8, dropout=0.5)
    model.base_model.model.model.norm.eval()
    model(input_ids=torch.tensor([[1, 2]])).logits.sum().backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    modes = [module.training for module in model.modules()]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    decoding = Decoding(temperature=1.0, max_frames=6, seed=5)
    first = speak(model, prompts, decoding, opened.checkpoint)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert (np.random.get_state()[1] == generators[2]).all()  # noqa: NPY002
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(part.grad, gradients[name]) for name, part in model.named_parameters() if name in gradients)
    second = speak(model, prompts, decoding, opened.checkpoint)
    assert [speech.codes_KT.tolist() for speech in second] == [speech.codes_KT.tolist() for speech in first]
    other = speak(model, prompts, Decoding(temperature=1.0, max_frames=6, seed=6), opened.checkpoint)
    assert [speech.codes_KT.tolist() for speech in other] != [speech.codes_KT.tolist() for speech in first]


def test_the_most_likely_codes_are_not_drawn_anew(opened, prompts, monkeypatch):
    """The released checkpoint draws repeated codes anew at random. At temperature 0 no seed decides."""
    configuration = opened.model.generation_config
    monkeypatch.setattr(configuration, "ras_win_len", 7, raising=False)
    monkeypatch.setattr(configuration, "ras_win_max_num_repeat", 1, raising=False)
    greedy, drawn = (
        [
            speak(opened.model, prompts, Decoding(temperature=t, max_frames=12, seed=seed), opened.checkpoint)
            for seed in (0, 1)
        ]
        for t in (0.0, 1.0)
    )
    codes = [[speech.codes_KT.tolist() for speech in speeches] for speeches in (*greedy, *drawn)]
    assert codes[0] == codes[1]
    assert codes[2] != codes[3]


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_codes_of_a_stream(opened, frames):
    """A stream as in training gives its codes; without an end, the frames with a code of each codebook count."""
    ids = opened.checkpoint.ids
    K = ids.num_codebooks
    codes = np.random.default_rng(frames).integers(0, 1024, (K, frames))
    stream = delay_codes(codes, bos=ids.stream_bos, eos=ids.stream_eos)
    assert speech_of(stream, ids).codes_KT.tolist() == codes.tolist()
    assert speech_of(stream, ids).stopped
    later = np.concatenate([stream, np.full((3, K), ids.stream_eos)])
    assert speech_of(later, ids).codes_KT.tolist() == codes.tolist()
    cut = speech_of(stream[:-1], ids)
    assert (cut.stopped, cut.codes_KT.tolist()) == (False, codes.tolist())
    shorter = speech_of(delay_codes(np.tile(codes, 3), bos=ids.stream_bos, eos=ids.stream_eos)[: frames + K], ids)
    assert (shorter.stopped, shorter.codes_KT.tolist()) == (False, codes.tolist())
    nothing = speech_of(delay_codes(codes[:, :0], bos=ids.stream_bos, eos=ids.stream_eos), ids)
    assert (nothing.stopped, nothing.codes_KT.shape) == (True, (K, 0))
