"""How predictions are read off a model of one family, declared; and how they are read.

Shape suffixes: B batch, S sequence, K codebooks (1 for text), V vocabulary; N supervised positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from higgs_audio_trainer.adapters.logits import MOST_ENTRIES, Logits, LogitsAt, MadeLogits
from higgs_audio_trainer.events import IGNORE_INDEX, Modality
from higgs_audio_trainer.extraction.rows import SupervisedRows
from higgs_audio_trainer.extraction.streams import Stream

_LOGITS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "B S K V": lambda logits, _K: logits,
    "B S V": lambda logits, _K: logits.unsqueeze(2),
    "B S (K V)": lambda logits, K: logits.view(*logits.shape[:2], K, -1),
    "(B K) S V": lambda logits, K: logits.view(-1, K, *logits.shape[1:]).transpose(1, 2),
}
_TOKENS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "B S": lambda tokens, _K: tokens.unsqueeze(-1),
    "B S K": lambda tokens, _K: tokens,
    "B K S": lambda tokens, _K: tokens.transpose(1, 2),
    "(B K) S": lambda tokens, K: tokens.view(-1, K, tokens.shape[1]).transpose(1, 2),
}


class UnreadableError(Exception):
    """The outputs of a model cannot be read as its adapter says; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the predictions of one modality are read off a batch.

    Attributes:
        modality: text or audio.
        logits: name of the logits, among what the model returned.
        labels: name of the labels, among what it was called with; -100 where masked.
        inputs: name, among what it was called with, of the tokens that the rows of the logits were fed.
        shift: the row at position p - shift predicts the label at p.
        logits_axes: `B S V`, `B S K V`, `B S (K V)` or `(B K) S V`.
        labels_axes: `B S`, `B S K`, `B K S` or `(B K) S`; of the inputs too.
        codebooks: name of their number in the configuration, dotted; "" for text.
        stops: names of the stop tokens in the configuration, dotted. Names that it lacks are passed over.
    """

    modality: Modality
    logits: str = "logits"
    labels: str = "labels"
    inputs: str = "input_ids"
    shift: int = 1
    logits_axes: str = "B S V"
    labels_axes: str = "B S"
    codebooks: str = ""
    stops: Sequence[str] = ("eos_token_id",)


def _as_given(_model: Any, _outputs: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    return inputs


@dataclass(frozen=True, slots=True)
class Adapter:
    """How a family of models is read.

    Attributes:
        name: of the family.
        readings: of text, if any, and of audio, if any, in this order. One without labels in a batch is passed over,
            where there is another.
        prepare: given the model, what it returned and what it was called with, by name: the latter, and what the
            readings name besides. Tensors, or `Logits`.
        ignored: labels besides -100 that the loss passes over, as names in the configuration, dotted.
        layers: the part of the model, dotted, whose first layer is fed position by position; "": found.
        depth: the part of the model, dotted, that makes the codebooks of a frame one after the other; "": none.
    """

    name: str
    readings: tuple[Reading, ...]
    prepare: Callable[[Any, Any, Mapping[str, Any]], Mapping[str, Any]] = field(default=_as_given)
    ignored: Sequence[str] = ()
    layers: str = ""
    depth: str = ""

    def num_codebooks(self, config: Any) -> int:
        """Return K of the audio that is read; 0 where none is."""
        return sum(_codebooks(reading, config) for reading in self.readings if reading.modality == "audio")

    def stops(self, config: Any) -> tuple[Modality, ...]:
        """Return the modalities that end with a stop token."""
        return tuple(reading.modality for reading in self.readings if ids_of(config, reading.stops))

    def has_labels(self, prepared: Mapping[str, Any]) -> bool:
        """Tell whether a batch has labels of any reading."""
        return any(prepared.get(reading.labels) is not None for reading in self.readings)

    def supervised(self, prepared: Mapping[str, Any]) -> tuple[Reading, ...]:
        """Return the readings that have labels in a batch; all, where none has, so that it is said what is missing."""
        return tuple(reading for reading in self.readings if prepared.get(reading.labels) is not None) or self.readings

    def streams(
        self, config: Any, outputs: Any, prepared: Mapping[str, Any], head_logits: Callable[[], Logits] | None = None
    ) -> list[Stream]:
        """Read a batch.

        Args:
            config: of the model.
            outputs: what the model returned.
            prepared: what `prepare` made of what it was called with.
            head_logits: makes the logits of text of a model that returned none.

        Raises:
            UnreadableError: something that a reading names is not there, or has another shape.
        """
        return [self._stream(reading, config, outputs, prepared, head_logits) for reading in self.supervised(prepared)]

    def arranged(
        self,
        reading: Reading,
        config: Any,
        outputs: Any,
        prepared: Mapping[str, Any],
        head_logits: Callable[[], Logits] | None = None,
    ) -> tuple[Logits, Tensor, Tensor]:
        """Bring what a reading names into one form: logits [B, S, K, V], labels and inputs [B, S, K].

        Raises:
            UnreadableError: something is not there, or has another shape.
        """
        K = _codebooks(reading, config)
        given = prepared.get(reading.logits, getattr(outputs, reading.logits, None))
        if isinstance(given, Logits):
            logits = given
        elif given is None and head_logits is not None and reading.logits_axes == "B S V":
            logits = head_logits()
        else:
            logits = MadeLogits(_arranged(reading, "logits", _LOGITS[reading.logits_axes], given, K))
        arrange = _TOKENS[reading.labels_axes]
        device = logits.device  # of the head, where the layers are spread over several
        labels_BSK = _arranged(reading, "labels", arrange, prepared.get(reading.labels), K).to(device)
        inputs_BSK = _arranged(reading, "inputs", arrange, prepared.get(reading.inputs), K).to(device)
        if logits.shape[:3] != labels_BSK.shape or labels_BSK.shape != inputs_BSK.shape:
            raise UnreadableError(
                f"expected as many positions of logits, labels and inputs, got {list(logits.shape[:3])}, "
                f"{list(labels_BSK.shape)} and {list(inputs_BSK.shape)} (batch, positions, codebooks)"
            )
        for token in ids_of(config, self.ignored):
            labels_BSK = labels_BSK.masked_fill(labels_BSK == token, IGNORE_INDEX)
        return logits, labels_BSK, inputs_BSK

    def _stream(
        self,
        reading: Reading,
        config: Any,
        outputs: Any,
        prepared: Mapping[str, Any],
        head_logits: Callable[[], Logits] | None,
    ) -> Stream:
        logits, labels_BSK, inputs_BSK = self.arranged(reading, config, outputs, prepared, head_logits)
        rows, predictions_KN = supervised_rows(logits, labels_BSK, reading.shift, reading.modality)
        stops = ids_of(config, reading.stops)
        return Stream(reading.modality, rows, predictions_KN, labels_BSK, inputs_BSK, reading.shift, stops)


def _codebooks(reading: Reading, config: Any) -> int:
    return int(_lookup(config, reading.codebooks)) if reading.codebooks else 1


def _lookup(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name, None)
    return config


def ids_of(config: Any, names: Sequence[str]) -> tuple[int, ...]:
    """Return the token ids that a configuration has under some dotted names; each may be one, a list or None."""
    ids: list[int] = []
    for name in names:
        found = _lookup(config, name)
        ids += found if isinstance(found, (list, tuple)) else [] if found is None else [found]
    return tuple(dict.fromkeys(map(int, ids)))


def _arranged(
    reading: Reading, what: str, arrange: Callable[[Tensor, int], Tensor], tensor: object, codebooks: int
) -> Tensor:
    name = getattr(reading, what)
    if not isinstance(tensor, Tensor):
        where = "among the outputs of the model" if what == "logits" else "among what the model was called with"
        hint = {
            "logits": "Is the loss fused with the head? Then no logits are made.",
            "labels": "Is the loss computed outside of the model? Give them to the logger: step(n, labels=...); "
            "under a Trainer, call the model with them.",
            "inputs": "Is it called with embeddings? Give them to the logger: step(n, input_ids=...).",
        }[what]
        raise UnreadableError(f"expected a tensor {name!r} {where}, got {type(tensor).__name__}. {hint}")
    try:
        return arrange(tensor, codebooks)
    except (IndexError, RuntimeError) as error:
        axes = reading.logits_axes if what == "logits" else reading.labels_axes
        raise UnreadableError(f"{name}: expected the axes {axes!r}, got the shape {list(tensor.shape)}") from error


def supervised_rows(
    logits: Logits, labels_BSK: Tensor, shift: int, modality: Modality
) -> tuple[SupervisedRows, Tensor]:
    """Find the rows that have a target, what they predict, and their cross-entropies.

    Args:
        logits: [B, S, K, V].
        labels_BSK: int64, -100 where masked.
        shift: the row at position p - shift predicts the label at p.
        modality: text has one codebook, and no axis for it.

    Returns:
        the rows, and their predictions, int64 [K, N].
    """
    labels_BTK = labels_BSK[:, shift:]
    batch_index, row = (labels_BTK != IGNORE_INDEX).any(dim=-1).nonzero(as_tuple=True)
    labels_NK = labels_BTK[batch_index, row]
    step = max(1, MOST_ENTRIES // max(1, logits.shape[2] * logits.shape[3]))
    predictions, nll = [labels_NK[:0]], [torch.zeros_like(labels_NK[:0], dtype=torch.float32)]
    for begin in range(0, len(row), step):
        part = slice(begin, begin + step)
        logits_XKV = logits.at(batch_index[part], row[part]).float()
        predictions.append(logits_XKV.max(dim=-1).indices)
        targets_XK = labels_NK[part]
        right_XK = logits_XKV.gather(-1, targets_XK.clamp(min=0)[..., None])[..., 0]
        nll.append((logits_XKV.logsumexp(dim=-1) - right_XK).masked_fill(targets_XK == IGNORE_INDEX, 0.0))
    is_text = modality == "text"
    labels_KN, nll_KN = labels_NK.T, torch.cat(nll).T
    looked_up: Any = LogitsAt(logits, batch_index, row, squeeze=is_text)  # of a tensor, all that is asked for
    rows = SupervisedRows(
        looked_up,
        labels_KN[0] if is_text else labels_KN,
        nll_KN[0] if is_text else nll_KN,
        batch_index,
        row + shift,
        row,
    )
    return rows, torch.cat(predictions).T
