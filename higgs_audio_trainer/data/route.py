"""Route of a batch: the order in which the model computes the tokens of a batch, without padding.

Text tokens come first, sample by sample, then audio tokens, sample by sample. The collator computes the route on the
host. All shapes and indices of the forward pass are then known, and nothing on the device depends on the values of a
tensor.

Shape suffixes: B batch, S token sequence, F audio frames, K codebooks; T text tokens, A audio tokens, N = T + A tokens;
R text rows with a target, M audio rows with a target. A place is an index into a flattened batch, b * S + s or
b * F + f.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypedDict

import torch
from torch import Tensor

from higgs_audio_trainer.events import IGNORE_INDEX


class Route(TypedDict):
    """Indices of the forward pass, int64 each.

    Attributes:
        places: Place of each token in `[B * S]`, [N]: T text tokens, then A audio tokens.
        frame_places: Place of the frame of each audio token in `[B * F]`, [A].
        text_rows: Token whose hidden state predicts a text target, [R]. The target is at the next place.
        audio_rows: Token whose hidden state predicts an audio target, [M].
        audio_targets: Place of the predicted frame in `[B * F]`, [M].
    """

    places: Tensor
    frame_places: Tensor
    text_rows: Tensor
    audio_rows: Tensor
    audio_targets: Tensor


def route_of(batch: Mapping[str, Tensor], placeholders: Collection[int]) -> Route:
    """Return the route of a batch on the host.

    The row at position p - 1 predicts position p, so a target at position 0 has no row.

    Args:
        batch: `input_ids`, `attention_mask` and `labels` [B, S], `audio_input_ids_mask` [B, F] and `audio_labels`
            [B, F, K]. Padding is on the right.
        placeholders: Token ids in `input_ids` that stand for audio frames. The n-th placeholder of a sample stands for
            the n-th frame of the sample.

    Example:
        >>> route = route_of(
        ...     {
        ...         "input_ids": torch.tensor([[5, 90, 6], [7, 8, 0]]),
        ...         "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        ...         "labels": torch.tensor([[-100, -100, 6], [-100, 8, -100]]),
        ...         "audio_input_ids_mask": torch.tensor([[True], [False]]),
        ...         "audio_labels": torch.tensor([[[3]], [[-100]]]),
        ...     },
        ...     placeholders=(90,),
        ... )
        >>> route["places"].tolist()  # the audio token last
        [0, 2, 3, 4, 1]
        >>> route["text_rows"].tolist(), route["audio_rows"].tolist()  # 6 is predicted at the frame, 8 at 7, 3 at 5
        ([4, 2], [0])
    """
    input_ids, length = batch["input_ids"], batch["input_ids"].shape[1]
    is_token = batch["attention_mask"].bool()
    is_audio = is_token & torch.isin(input_ids, torch.tensor(tuple(placeholders)))
    text_places, audio_places = _places(is_token & ~is_audio), _places(is_audio)
    places = torch.cat([text_places, audio_places])
    number = torch.empty(input_ids.numel(), dtype=torch.long)
    number[places] = torch.arange(len(places))

    is_text_target = batch["labels"] != IGNORE_INDEX
    is_text_target[:, 0] = False
    frame_places = _places(batch["audio_input_ids_mask"])
    is_target_A = (batch["audio_labels"].flatten(0, 1)[frame_places] != IGNORE_INDEX).any(-1)
    is_target_A &= audio_places % length > 0
    return Route(
        places=places,
        frame_places=frame_places,
        text_rows=number[_places(is_text_target) - 1],
        audio_rows=number[audio_places[is_target_A] - 1],
        audio_targets=frame_places[is_target_A],
    )


def _places(which: Tensor) -> Tensor:
    return which.flatten().nonzero()[:, 0]
