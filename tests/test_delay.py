"""Delay pattern and labels, compared with slow and plain constructions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from transformers import HiggsAudioV2Processor

from higgs_audio_trainer.data.delay import delay_codes, delayed_labels, num_stream_frames, undo_delay
from higgs_audio_trainer.events import IGNORE_INDEX

BOS, EOS = 1024, 1025
CODES = st.tuples(st.integers(1, 9), st.integers(1, 20)).flatmap(
    lambda shape: npst.arrays(np.int64, shape, elements=st.integers(0, 1023))
)

#: Frames of BOS alone at the beginning of a clip, in v2 and in TTS 3.
either_layout = pytest.mark.parametrize("bos_frames", [1, 0])


def delayed_by_hand(codes_KT: np.ndarray, bos_frames: int) -> list[list[int]]:
    """Return the stream built row by row, with BOS and EOS around each codebook and row k shifted by k columns."""
    rows = []
    for k, codes in enumerate(codes_KT.tolist()):
        rows.append([BOS] * (k + bos_frames) + [*codes, EOS] + [EOS] * (len(codes_KT) - 1 - k))
    return [[row[column] for row in rows] for column in range(len(rows[0]))]


def labels_by_hand(codes_KT: np.ndarray, bos_frames: int) -> list[list[int]]:
    """Return the labels by the rule: no BOS, no delay prefix, no EOS fill, one EOS in each codebook."""
    rows = []
    for k, codes in enumerate(codes_KT.tolist()):
        prefix, fill = [IGNORE_INDEX] * (k + bos_frames), [IGNORE_INDEX] * (len(codes_KT) - 1 - k)
        rows.append([*prefix, *codes, EOS, *fill])
    return [[row[column] for row in rows] for column in range(len(rows[0]))]


def test_a_small_clip_is_delayed_as_written_here():
    """Three codebooks of two frames, in full."""
    stream_FK = delay_codes(np.array([[1, 2], [3, 4], [5, 6]]), bos=BOS, eos=EOS)
    assert stream_FK.tolist() == [
        [BOS, BOS, BOS],
        [1, BOS, BOS],
        [2, 3, BOS],
        [EOS, 4, 5],
        [EOS, EOS, 6],
        [EOS, EOS, EOS],
    ]
    assert delayed_labels(stream_FK, 2).tolist() == [
        [-100, -100, -100],
        [1, -100, -100],
        [2, 3, -100],
        [EOS, 4, 5],
        [-100, EOS, 6],
        [-100, -100, EOS],
    ]


def test_a_small_clip_without_a_frame_of_bos_alone():
    """The same three codebooks, in full: the first frame has the first code of codebook 0."""
    stream_FK = delay_codes(np.array([[1, 2], [3, 4], [5, 6]]), bos=BOS, eos=EOS, bos_frames=0)
    assert stream_FK.tolist() == [
        [1, BOS, BOS],
        [2, 3, BOS],
        [EOS, 4, 5],
        [EOS, EOS, 6],
        [EOS, EOS, EOS],
    ]
    assert delayed_labels(stream_FK, 2, bos_frames=0).tolist() == [
        [1, -100, -100],
        [2, 3, -100],
        [EOS, 4, 5],
        [-100, EOS, 6],
        [-100, -100, EOS],
    ]


@either_layout
@settings(deadline=None)
@given(codes_KT=CODES)
def test_the_stream_is_what_a_construction_by_hand_gives(bos_frames, codes_KT):
    """The stream has BOS columns, codes and an EOS column, with each codebook a frame later than the previous."""
    stream_FK = delay_codes(codes_KT, bos=BOS, eos=EOS, bos_frames=bos_frames)
    assert stream_FK.dtype == np.int64
    assert stream_FK.tolist() == delayed_by_hand(codes_KT, bos_frames)
    assert len(stream_FK) == num_stream_frames(codes_KT.shape[1], codes_KT.shape[0], bos_frames)


@settings(deadline=None)
@given(CODES)
def test_the_stream_is_what_transformers_builds(codes_KT):
    """The processor of transformers builds the same stream."""
    columns = [np.full((len(codes_KT), 1), token) for token in (BOS, EOS)]
    framed = torch.from_numpy(np.concatenate([columns[0], codes_KT, columns[1]], axis=1))[None]
    ids = SimpleNamespace(audio_stream_bos_id=BOS, audio_stream_eos_id=EOS)
    theirs_1KF = HiggsAudioV2Processor.build_delay_pattern(ids, framed)
    assert np.array_equal(delay_codes(codes_KT, bos=BOS, eos=EOS), theirs_1KF[0].numpy().T)


@either_layout
@settings(deadline=None)
@given(codes_KT=CODES)
def test_the_delay_can_be_undone(bos_frames, codes_KT):
    """Undoing the delay gives the original codes."""
    stream_FK = delay_codes(codes_KT, bos=BOS, eos=EOS, bos_frames=bos_frames)
    assert np.array_equal(undo_delay(stream_FK, bos_frames=bos_frames), codes_KT)


@either_layout
@settings(deadline=None)
@given(codes_KT=CODES)
def test_the_labels_are_the_codes_and_one_stop_in_each_codebook(bos_frames, codes_KT):
    """Each codebook has T codes and exactly one EOS as labels, in this order."""
    stream_FK = delay_codes(codes_KT, bos=BOS, eos=EOS, bos_frames=bos_frames)
    labels_FK = delayed_labels(stream_FK, codes_KT.shape[1], bos_frames=bos_frames)
    assert labels_FK.tolist() == labels_by_hand(codes_KT, bos_frames)
    for codes, labels in zip(codes_KT.tolist(), labels_FK.T.tolist(), strict=True):
        assert [label for label in labels if label != IGNORE_INDEX] == [*codes, EOS]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_codes_of_any_integer_type_give_the_same_stream(dtype):
    """A file of codes need not be int64, and a small type does not overflow at BOS and EOS."""
    codes_KT = np.arange(12).reshape(3, 4)
    stream_FK = delay_codes(codes_KT.astype(dtype), bos=70_000, eos=70_001)
    assert np.array_equal(stream_FK, delay_codes(codes_KT, bos=70_000, eos=70_001))
