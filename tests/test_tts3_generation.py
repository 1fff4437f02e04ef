"""Generation of Higgs TTS 3: the servers' state machine, a computation row by row, and the labels of the training."""

import copy
from itertools import count

import numpy as np
import pytest
import torch

from benchmarks.workload import add_lora
from higgs_audio_trainer.checkpoint.speaking_model import open_speaking_model
from higgs_audio_trainer.data.batch import PreparedSample, TokenIds, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.families.speech import Decoding
from higgs_audio_trainer.families.tts3.generation import generate_rows, speech_of
from higgs_audio_trainer.voice.generation import speak
from higgs_audio_trainer.voice.speech_prompt import new_prompt

C, BOC, EOC = 10, 8, 9


def ids_of(num_codebooks):
    """Make the token ids of a codec with 8 codes."""
    return TokenIds(
        *(0, -100, -100),
        stream_bos=BOC,
        stream_eos=EOC,
        num_codebooks=num_codebooks,
        bos_frames=0,
        reference_eos=False,
        learns_text=False,
    )


def servers_rows(draws_RK, max_rows):
    """Run the state machine for one prompt as the servers have it, and return its rows, and whether it has ended."""
    K = len(draws_RK[0])
    delay, countdown, rows = 0, None, []
    for drawn in draws_RK[:max_rows]:
        row = list(drawn)
        if delay < K:
            delay += 1
            for k in range(delay, K):
                row[k] = BOC
            rows.append(row)
            continue
        rows.append(row)
        if countdown is not None:
            countdown -= 1
        elif row[0] == EOC:
            countdown = K - 2
        if countdown is not None and countdown <= 0:
            return rows, True
    return rows, False


def scripted(draws_BRK, decoding=None, **options):
    """Generate from logits that make each draw certain, and check what is fed back."""
    draws = torch.as_tensor(np.array(draws_BRK))
    rows, fed = count(), []

    def logits_of(row_BK):
        fed.append(row_BK)
        return torch.nn.functional.one_hot(draws[:, next(rows)], C) * 1e6

    ids = ids_of(draws.shape[2])
    stream = generate_rows(logits_of, decoding=decoding, ids=ids, **options)
    assert fed[0] is None
    assert all(torch.equal(row, stream.rows_BRK[:, at]) for at, row in enumerate(fed[1:]))
    return stream


def draws_with(K, rows, *ends, seed=0):
    """Make draws of codes, with an EOC of codebook 0 at some rows."""
    draws = np.random.default_rng(seed).integers(0, 8, (rows, K))
    draws[list(ends), 0] = EOC
    return draws


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    ("K", "ends"),
    [
        (4, ()),  # never
        (4, (1, 3)),  # in the ramp alone
        (4, (2, 4)),
        (4, (4,)),  # the first row that counts
        (4, (7, 8, 9)),
        (4, (10,)),  # the last frame of the limit
        (4, (11,)),  # after the limit
        (1, (0,)),
        (1, (5,)),
        (2, (1,)),
        (2, (2,)),
        (2, (6, 7)),
        (8, (9,)),
    ],
)
def test_rows_are_those_of_the_state_machine(K, ends, temperature):
    """The ramp, the countdown and the limit, and the codes without EOC at their end."""
    max_frames = 10
    draws = draws_with(K, max_frames + K + 2, *ends)
    expected, has_ended = servers_rows(draws.tolist(), max_frames + K - 1)
    stream = scripted([draws], Decoding(temperature=temperature, max_frames=max_frames, top_k=3, top_p=0.9))
    assert stream.rows_BRK[0].tolist() == expected
    speech = speech_of(stream.rows_BRK[0].numpy(), int(stream.end_rows_B[0]), ids_of(K))
    assert speech.stopped == has_ended
    counted = [row for row in ends if row >= K]
    assert speech.codes_KT.shape == (K, min(counted[0], max_frames) if has_ended else max_frames)
    for k in range(K):
        for t, code in enumerate(speech.codes_KT[k]):
            drawn = expected[t + k][k]
            assert code == drawn or drawn >= BOC, "only what is no code is replaced"
            assert code < BOC


def test_the_others_of_a_batch_go_on():
    """A speech that has ended stays so, and each has the codes that it has alone."""
    K, decoding = 3, Decoding(max_frames=12)
    batch = [draws_with(K, 20, *ends, seed=seed) for seed, ends in enumerate([(5, 8), (), (9,), (1, 3)])]
    together = scripted(batch, decoding)
    assert together.rows_BRK.shape == (4, 14, K)
    assert together.end_rows_B.tolist() == [5, -1, 9, 3]
    for draws, rows, end in zip(batch, together.rows_BRK, together.end_rows_B, strict=True):
        alone = scripted([draws], decoding)
        ours = speech_of(rows.numpy(), int(end), ids_of(K))
        theirs = speech_of(alone.rows_BRK[0].numpy(), int(alone.end_rows_B[0]), ids_of(K))
        assert (ours.stopped, ours.codes_KT.tolist()) == (theirs.stopped, theirs.codes_KT.tolist())
    assert scripted([batch[0], batch[3]], decoding).rows_BRK.shape[1] == 7, "until the last has ended"


@pytest.mark.parametrize(("rows", "frames"), [(1, 0), (2, 0), (3, 1), (6, 4), (7, 5)])
def test_a_request_to_stop_ends_the_speech_as_a_limit_does(rows, frames):
    """The question is asked at each row, and an EOC whose countdown is not over is no code of the speech."""
    asked = count(1)
    stream = scripted([draws_with(3, 20, 6)], Decoding(max_frames=12), is_asked_to_stop=lambda: next(asked) == rows)
    speech = speech_of(stream.rows_BRK[0].numpy(), int(stream.end_rows_B[0]), ids_of(3))
    assert stream.rows_BRK.shape[1] == rows
    assert (speech.stopped, speech.codes_KT.shape) == (False, (3, frames))


def test_sampling_takes_the_most_likely_codes_alone():
    """Each codebook is drawn by itself: top_k and top_p bound the codes, and the temperature sharpens."""
    torch.manual_seed(0)
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(64, 3, 4).clone()
    logits[:, 1] = logits[:, 1].flip(-1)
    ids = ids_of(3)

    def drawn(**options):
        decoding = Decoding(max_frames=8, **options)
        rows = generate_rows(lambda _row: logits, decoding=decoding, ids=ids).rows_BRK[:, 3:]
        return [torch.bincount(rows[..., k].flatten(), minlength=4)[:4] / rows[..., k].numel() for k in range(3)]

    plain = drawn(temperature=1.0)
    assert torch.allclose(plain[0], torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.06)
    assert torch.allclose(plain[1].flip(0), plain[2], atol=0.09)
    assert [(share > 0).tolist() for share in drawn(temperature=1.0, top_k=2)] == [
        [True, True, False, False],
        [False, False, True, True],
        [True, True, False, False],
    ]
    assert (drawn(temperature=1.0, top_p=0.9)[0] > 0).tolist() == [True, True, True, False]
    assert drawn(temperature=0.2)[0][0] > 0.85
    assert drawn(temperature=1e-6)[0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("K", [1, 2, 3, 8])
@pytest.mark.parametrize("frames", [8, 9, 20])
def test_the_training_supervises_what_the_generation_asks_for(K, frames):
    """Row by row: a target where a draw is used, none where a value is forced or ignored.

    The last codebook's EOC is a target too, in a row of its own, which the servers never reach.
    """
    ids = ids_of(K)
    codes = np.random.default_rng(frames).integers(0, 8, (K, frames))
    segments = (TokenSegment(np.array([1]), False), TokenSegment(None, True))
    example = build_example(PreparedSample("a", segments, (codes,)), [codes], ids)
    rows, ended = servers_rows(example.audio_ids_FK.tolist(), 1_000)
    assert ended
    assert len(rows) == (frames + K - 1 if K > 1 else frames + 1)
    generated = scripted([np.pad(example.audio_ids_FK, ((0, 2), (0, 0)))], Decoding(max_frames=30))
    assert generated.rows_BRK[0].tolist() == rows, "the stream of the training is one that the servers can say"
    for row, labels in enumerate(example.audio_labels_FK):
        for k, label in enumerate(labels):
            is_forced = k > row  # BOC of the ramp
            has_ended = row > k + frames  # drawn, fed back, and not heard
            assert (label == IGNORE_INDEX) == (is_forced or has_ended)
            assert label in (IGNORE_INDEX, example.audio_ids_FK[row, k])
    asked = np.zeros_like(example.audio_labels_FK, dtype=bool)
    asked[: len(rows)] = True
    unasked = np.argwhere((example.audio_labels_FK != IGNORE_INDEX) & ~asked)
    assert unasked.tolist() == ([] if K == 1 else [[frames + K - 1, K - 1]])


@pytest.fixture(scope="module")
def opened(tiny_of):
    """Open the tiny checkpoint."""
    base = str(tiny_of("higgs-tts-3").model_dir)
    return open_speaking_model(None, base_ckpt=base, audio_tokenizer=None, device="cpu")


@pytest.fixture(scope="module")
def prompts(opened):
    """Make prompts of different lengths, two of them with references."""
    rng = np.random.default_rng(0)
    references = [rng.integers(0, 1024, (8, frames)) for frames in (5, 2)]
    return [
        new_prompt("a", "Hello.", opened.checkpoint),
        new_prompt("b", "A sentence with some more words.", opened.checkpoint, reference=("So.", references[0])),
        new_prompt("c", "Hm.", opened.checkpoint, reference=(None, references[1])),
    ]


def step_by_step(model, prompt, num_rows):
    """Generate without a cache, a mask or a batch. Each row is computed anew from the whole sequence."""
    table, size, K = model.audio_embedding.weight, 1026, 8
    rows = []
    for row in range(num_rows):
        frames = [*prompt.inputs.audio_ids_FK.tolist(), *rows]
        at, embeds = 0, []
        for token in [*prompt.inputs.input_ids.tolist(), *[-100] * len(rows)]:
            if token == -100:
                embeds.append(sum(table[k * size + code] for k, code in enumerate(frames[at])))
                at += 1
            else:
                embeds.append(model.model.embed_tokens.weight[token])
        with torch.no_grad():
            hidden = model.model(inputs_embeds=torch.stack(embeds)[None], use_cache=False).last_hidden_state
            logits = (hidden[0, -1] @ table.T).view(K, size)
        drawn = logits.argmax(-1).tolist()
        rows.append([1024 if k > row else code for k, code in enumerate(drawn)])
    return rows


def test_speech_is_what_a_computation_step_by_step_gives(opened, prompts):
    """With the most likely codes, in a batch as alone."""
    decoding = Decoding(max_frames=6)
    together = speak(opened.model, prompts, decoding, opened.checkpoint)
    for prompt, speech in zip(prompts, together, strict=True):
        rows = np.array(step_by_step(opened.model, prompt, 6 + 7))
        expected = speech_of(rows, -1, opened.checkpoint.ids)
        assert speech.codes_KT.tolist() == expected.codes_KT.tolist()
        assert not speech.stopped
        (alone,) = speak(opened.model, [prompt], decoding, opened.checkpoint)
        assert alone.codes_KT.tolist() == speech.codes_KT.tolist()


def test_the_seed_decides(opened, prompts):
    """The same seed gives the same codes, another seed others, and no code is a special id."""
    said = [
        [
            speech.codes_KT.tolist()
            for speech in speak(
                opened.model, prompts, Decoding(temperature=1.0, max_frames=4, seed=seed), opened.checkpoint
            )
        ]
        for seed in (5, 5, 6)
    ]
    assert said[0] == said[1] != said[2]
    assert max(np.max(codes) for codes in said[0]) < 1024


def test_an_adapter_speaks_from_the_model_for_training(opened, prompts):
    """Peft passes `generate` on, and the speech of new adapters is that of the base model."""
    model = add_lora(copy.deepcopy(opened.model), r=4, alpha=8, dropout=0.5)
    spoken = speak(model, prompts[:2], Decoding(max_frames=3), opened.checkpoint)
    plain = speak(opened.model, prompts[:2], Decoding(max_frames=3), opened.checkpoint)
    assert [speech.codes_KT.tolist() for speech in spoken] == [speech.codes_KT.tolist() for speech in plain]
    assert model.training
