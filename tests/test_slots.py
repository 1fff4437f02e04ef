"""Places of slots against a reference that knows the clips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from higgs_audio_trainer.data.batch import Collator, PreparedSample, TokenIds, Vocabulary, build_example
from higgs_audio_trainer.data.prompt import TokenSegment
from higgs_audio_trainer.extraction.slots import NO_SLOT, PLACES, slot_places
from higgs_audio_trainer.extraction.streams import ABSENT

K, BOS, EOS, PAD = 3, 1024, 1025, 0
#: Layouts of both families, by the number of frames of BOS alone.
LAYOUTS = {
    1: TokenIds(PAD, 90, 91, BOS, EOS, K),
    0: TokenIds(PAD, -100, -100, BOS, EOS, K, bos_frames=0, reference_eos=False, learns_text=False),
}
#: Parts of a sample: a text of some tokens, or a clip of some frames, and whether it is supervised.
PARTS = st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.booleans()), min_size=1, max_size=5)


def example_of(parts, ids):
    """Build an example, in which every clip has other codes."""
    segments = [TokenSegment(None if is_clip else np.full(size, 5), supervised) for is_clip, size, supervised in parts]
    clips = [np.arange(K * size).reshape(K, size) + size for is_clip, size, _ in parts if is_clip]
    return build_example(PreparedSample("a", tuple(segments)), clips, ids)


def places_by_hand(parts, bos_frames, length):
    """List the places of a sample's slots, [S][1 + K], by the rule of the delay pattern."""
    rows = []
    for is_clip, size, supervised in parts:
        if not is_clip:
            text = "response" if supervised and bos_frames else "prompt"  # the other layout learns no text
            rows += [[text, *["none"] * K]] * size
        elif not supervised:
            frames = size + K + 1 if bos_frames else size + K - 1  # the other layout saves an EOS too
            rows += [["placeholder", *["reference_audio"] * K]] * frames
        else:
            for frame in range(size + K + bos_frames):
                rows.append(["placeholder", *(place_by_hand(frame, k, size, bos_frames) for k in range(K))])
    return rows + [["padding", *["none"] * K]] * (length - len(rows))


def place_by_hand(frame, k, num_frames, bos_frames):
    """Return the place of a frame of a supervised clip in codebook k."""
    begin = k + bos_frames
    if frame < bos_frames:
        return "stream_bos"
    if frame < begin:
        return "delay_prefix"
    if frame < begin + num_frames:
        return "codes"
    return "stop" if frame == begin + num_frames else "eos_fill"


@pytest.mark.parametrize("bos_frames", LAYOUTS)
@given(samples=st.lists(PARTS, min_size=1, max_size=3))
def test_places_are_those_of_the_clips(bos_frames, samples):
    """Only a layout with a frame of BOS alone has a `stream_bos`; a delay prefix, codes, a stop and a fill follow."""
    ids = LAYOUTS[bos_frames]
    batch = Collator(ids)([example_of(parts, ids) for parts in samples])
    is_audio_BS = (batch["input_ids"] == ids.audio) | (batch["input_ids"] == ids.audio_delay)
    tokens_BSK = torch.full((*is_audio_BS.shape, K), ABSENT)
    tokens_BSK[is_audio_BS] = batch["audio_input_ids"][batch["audio_input_ids_mask"]]
    vocabulary = Vocabulary((), BOS, EOS, (ids.audio, ids.audio_delay), has_bos_frame=bos_frames > 0)
    places = slot_places(tokens_BSK, batch["regions"], vocabulary)
    names = {**dict(enumerate(PLACES)), NO_SLOT: "none"}
    got = [[[names[place] for place in row] for row in sample] for sample in places.tolist()]
    length = batch["input_ids"].shape[1]
    assert got == [places_by_hand(parts, bos_frames, length) for parts in samples]
