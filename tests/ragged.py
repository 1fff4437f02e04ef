"""Batches of random sequences, and outputs of a model for these batches, made by loops."""

import random
from functools import partial

import torch

from higgs_audio_trainer.data.batch import Vocabulary
from higgs_audio_trainer.data.regions import Region
from higgs_audio_trainer.events import IGNORE_INDEX
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.families.training_forward import TrainingOutput
from higgs_audio_trainer.training.model_streams import micro_batch_of

AUDIO, DELAY, STOP, PAD = 90, 91, 92, 93  # text tokens with a meaning; the vocabulary has 100
V, K, C = 100, 3, 20
BOS, EOS = 18, 19
HOLE = -100  # placeholder of a layout without a frame of BOS alone
VOCABULARY = Vocabulary((STOP,), BOS, EOS, (AUDIO, DELAY))
#: Vocabularies by the number of frames of BOS alone at the beginning of a clip.
VOCABULARIES = {1: VOCABULARY, 0: Vocabulary((STOP,), BOS, EOS, (HOLE,), has_bos_frame=False)}
READ = partial(micro_batch_of, vocabulary=VOCABULARY)


def ragged_batch(seed, size=3, bos_frames=1):
    """Make a batch of random sequences.

    The text is supervised in part, clips are at random places, and some are masked. Without a frame of BOS alone, the
    labels of a clip begin at its first frame, and one placeholder stands for all frames.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(size):
        ids, labels, codes, code_labels = [1], [IGNORE_INDEX], [], []
        for _ in range(rng.randint(1, 3)):
            for _ in range(rng.randint(1, 6)):
                token = rng.choice([*range(2, 80), STOP])
                ids.append(token)
                labels.append(token if rng.random() < 0.6 else IGNORE_INDEX)
            frames = rng.randint(0, 7)
            ids += [AUDIO] * max(frames - 2, 0) + [DELAY] * min(frames, 2) if bos_frames else [HOLE] * frames
            labels += [IGNORE_INDEX] * frames
            is_target = rng.random() < 0.8
            for frame in range(frames):
                column = [rng.randrange(C) for _ in range(K)]
                codes.append(column)
                seen = [is_target and frame >= bos_frames and rng.random() < 0.8 for _ in range(K)]
                code_labels.append([code if see else IGNORE_INDEX for code, see in zip(column, seen, strict=True)])
            ids.append(rng.randrange(2, 80))
            labels.append(IGNORE_INDEX)
        rows.append((ids, labels, codes, code_labels))
    return pad(rows)


def pad(rows):
    """Stack rows as the collator does."""
    S, F = max(len(row[0]) for row in rows), max(len(row[2]) for row in rows)
    ids = torch.full((len(rows), S), PAD)
    labels = torch.full((len(rows), S), IGNORE_INDEX)
    codes = torch.full((len(rows), F, K), EOS)
    code_labels = torch.full((len(rows), F, K), IGNORE_INDEX)
    mask = torch.zeros(len(rows), F, dtype=torch.bool)
    for b, (i, t, c, a) in enumerate(rows):
        ids[b, : len(i)], labels[b, : len(t)] = torch.tensor(i), torch.tensor(t)
        if c:
            codes[b, : len(c)], code_labels[b, : len(a)], mask[b, : len(c)] = torch.tensor(c), torch.tensor(a), True
    return {
        "input_ids": ids,
        "labels": labels,
        "audio_input_ids": codes,
        "audio_labels": code_labels,
        "audio_input_ids_mask": mask,
        "regions": torch.where(ids == PAD, Region.PADDING, Region.RESPONSE).to(torch.int8),
    }


def frame_positions(batch, b):
    """Return the positions of one sample's frames, in order."""
    return [p for p, token in enumerate(batch["input_ids"][b].tolist()) if token in (AUDIO, DELAY, HOLE)]


def outputs_of(batch, text_logits_BSV, audio_logits_BSKC):
    """Select supervised rows by loops, as `TrainingOutput` describes the rows."""
    text, audio = [], []
    for b, labels in enumerate(batch["labels"].tolist()):
        text += [(b, p, label) for p, label in enumerate(labels) if p > 0 and label != IGNORE_INDEX]
        for frame, p in enumerate(frame_positions(batch, b)):
            column = batch["audio_labels"][b, frame].tolist()
            if any(label != IGNORE_INDEX for label in column):
                audio.append((b, p, column))

    def rows(found, logits):
        return torch.stack([logits[b, p - 1] for b, p, _ in found]) if found else logits[:0, 0]

    def index(found, which):
        return torch.tensor([row[which] for row in found], dtype=torch.long)

    text_logits, audio_logits = rows(text, text_logits_BSV), rows(audio, audio_logits_BSKC)
    text_labels, audio_labels = (
        index(text, 2),
        torch.tensor([row[2] for row in audio], dtype=torch.long).reshape(-1, K).T,
    )
    text_nll = torch.nn.functional.cross_entropy(text_logits, text_labels, reduction="none")
    audio_nll = torch.stack(
        [torch.nn.functional.cross_entropy(audio_logits[:, k], audio_labels[k], reduction="none") for k in range(K)]
    )
    text_position, audio_position = index(text, 1), index(audio, 1)
    return TrainingOutput(
        text_loss=text_nll.sum() / max(len(text), 1),
        audio_loss_K=audio_nll.sum(-1) / (audio_labels != IGNORE_INDEX).sum(-1).clamp(min=1),
        text=SupervisedRows(text_logits, text_labels, text_nll, index(text, 0), text_position, text_position - 1),
        audio=SupervisedRows(
            audio_logits, audio_labels, audio_nll, index(audio, 0), audio_position, audio_position - 1
        ),
    )


def one_hot(predictions, size):
    """Return logits that predict the given tokens."""
    return torch.nn.functional.one_hot(predictions, size).float() * 10


def clip_batch(targets):
    """Make one sample of three prompt tokens and a clip.

    The first frame of the clip is a BOS, and all others are targets.
    """
    frames = targets + 1
    codes = [[(3 * f + k) % (C - 1) for k in range(K)] for f in range(frames)]
    codes[-1] = [EOS] * K
    labels = [[IGNORE_INDEX] * K, *codes[1:]]
    ids = [1, 5, 6, *[AUDIO] * frames, STOP]
    text = [IGNORE_INDEX] * (len(ids) - 1) + [STOP]
    return pad([(ids, text, codes, labels)])


def predicting(batch, shift):
    """Make outputs whose audio rows predict, at p, the token `shift` frames away from p."""
    B, S = batch["input_ids"].shape
    audio = torch.zeros(B, S, K, dtype=torch.long)
    places = frame_positions(batch, 0)
    for frame, p in enumerate(places):
        source = min(max(frame + shift, 0), len(places) - 1)
        audio[0, p - 1] = batch["audio_input_ids"][0, source]
    return outputs_of(batch, one_hot(torch.roll(batch["input_ids"], -1, 1), V), one_hot(audio, C))
