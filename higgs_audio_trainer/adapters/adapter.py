"""Declaration of the outputs of a family of models, and the reading of predictions from these outputs.

Shape suffixes: B batch, S sequence, K codebooks (1 for text), V vocabulary; N supervised positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from higgs_audio_trainer.adapters.logits import Logits, MadeLogits
from higgs_audio_trainer.events import IGNORE_INDEX, Modality
from higgs_audio_trainer.extraction.rows import ComputedLogits, SupervisedRows
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
    """Outputs of a model that the adapter cannot read. The message names the missing tensor or the wrong shape.

    Example:
        >>> Adapter("my model", (Reading("text"),)).streams(None, None, {})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        higgs_audio_trainer.adapters.adapter.UnreadableError: expected a tensor 'logits' among the outputs ...
    """


@dataclass(frozen=True, slots=True)
class Reading:
    """Names and shapes of the tensors that hold the predictions of one modality.

    Attributes:
        modality: Text or audio.
        logits: Name of the logits among the outputs of the model.
        labels: Name of the labels among the arguments of the forward pass; -100 where masked.
        inputs: Name of the input tokens of the rows among the arguments of the forward pass.
        shift: The row at position p - shift predicts the label at p.
        logits_axes: `B S V`, `B S K V`, `B S (K V)` or `(B K) S V`.
        labels_axes: `B S`, `B S K`, `B K S` or `(B K) S`, for labels and inputs.
        codebooks: Dotted name of the number of codebooks in the configuration; "" for text.
        stops: Dotted names of the stop tokens in the configuration. Names that the configuration lacks are skipped.

    Example:
        >>> Reading("audio", logits_axes="B S K V", labels_axes="B S K", codebooks="num_codebooks").shift
        1
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
    """Meaning of the outputs of a family of models.

    Attributes:
        name: Name of the family.
        readings: Reading of text, if any, then reading of audio, if any. A reading without labels in a batch is
            skipped, if another reading has labels.
        prepare: Function from the model, the outputs and the named arguments to the named arguments and all further
            tensors of the readings. Values are tensors or `Logits`.
        ignored: Dotted names in the configuration of labels that the loss ignores, besides -100.
        layers: Dotted name of the submodule whose first layer receives one vector per position; "" to search for it.
        depth: Dotted name of the submodule that predicts the codebooks of a frame one by one; "" without one.

    Example:
        >>> adapter = Adapter("my model", (Reading("text", logits="scores", labels="targets", inputs="tokens"),))
        >>> adapter.has_labels({"targets": torch.tensor([[1, 2]])})
        True
    """

    name: str
    readings: tuple[Reading, ...]
    prepare: Callable[[Any, Any, Mapping[str, Any]], Mapping[str, Any]] = field(default=_as_given)
    ignored: Sequence[str] = ()
    layers: str = ""
    depth: str = ""

    def num_codebooks(self, config: Any) -> int:
        """Return the number of audio codebooks, K; 0 without audio."""
        return sum(_codebooks(reading, config) for reading in self.readings if reading.modality == "audio")

    def stops(self, config: Any) -> tuple[Modality, ...]:
        """Return the modalities with a stop token."""
        return tuple(reading.modality for reading in self.readings if ids_of(config, reading.stops))

    def has_labels(self, prepared: Mapping[str, Any]) -> bool:
        """Return True if a batch has labels for any reading."""
        return any(prepared.get(reading.labels) is not None for reading in self.readings)

    def supervised(self, prepared: Mapping[str, Any]) -> tuple[Reading, ...]:
        """Return the readings with labels in a batch; all readings if no labels exist, and reading raises an error."""
        return tuple(reading for reading in self.readings if prepared.get(reading.labels) is not None) or self.readings

    def streams(
        self, config: Any, outputs: Any, prepared: Mapping[str, Any], head_logits: Callable[[], Logits] | None = None
    ) -> list[Stream]:
        """Return the streams of a batch.

        Args:
            config: Configuration of the model.
            outputs: Outputs of the model.
            prepared: Result of `prepare`.
            head_logits: Function that computes the text logits for a model without logits among the outputs.

        Raises:
            UnreadableError: A tensor that a reading names is missing or has another shape.
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
        """Return logits [B, S, K, V], labels and inputs [B, S, K] of a reading, for any order of axes in the model.

        Args:
            reading: Reading of one modality.
            config: Configuration of the model.
            outputs: Outputs of the model.
            prepared: Result of `prepare`.
            head_logits: Function that computes the text logits for a model without logits among the outputs.

        Raises:
            UnreadableError: A tensor is missing or has another shape.
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
        device = logits.device  # of the head, for a model that is spread over several devices
        labels_BSK = _arranged(reading, "labels", arrange, prepared.get(reading.labels), K).to(device)
        inputs_BSK = _arranged(reading, "inputs", arrange, prepared.get(reading.inputs), K).to(device)
        if logits.shape[:3] != labels_BSK.shape or labels_BSK.shape != inputs_BSK.shape:
            raise UnreadableError(
                f"expected logits, labels and inputs of equal shape, got {list(logits.shape[:3])}, "
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
    """Return the token ids under dotted names of a configuration, without duplicates.

    The value of a name may be an integer, a list or None.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(eos_token_id=[2, 7], decoder=SimpleNamespace(stop=2))
        >>> ids_of(config, ["eos_token_id", "decoder.stop"])
        (2, 7)
    """
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
        where = "among the outputs of the model" if what == "logits" else "among the arguments of the model"
        hint = {
            "logits": "A loss that is fused with the head returns no logits.",
            "labels": "If the loss is computed outside the model, pass the labels to the logger: step(n, labels=...); "
            "under a Trainer, call the model with labels.",
            "inputs": "If the model gets embeddings, pass the tokens to the logger: step(n, input_ids=...); under a "
            f"Trainer, give the logger an Adapter whose `prepare` returns {name!r} as well.",
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
    """Return the supervised rows with cross-entropies and predictions.

    Args:
        logits: Logits, [B, S, K, V].
        labels_BSK: Labels, int64, -100 where masked.
        shift: The row at position p - shift predicts the label at p.
        modality: The rows of text have no codebook axis.

    Returns:
        The rows, and the most likely token of each row, int64 [K, N].

    Example:
        >>> logits = torch.tensor([[[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]]).unsqueeze(2)
        >>> labels = torch.tensor([[-100, 1, 1]]).unsqueeze(2)
        >>> rows, predictions = supervised_rows(MadeLogits(logits), labels, shift=1, modality="text")
        >>> rows.position.tolist(), rows.row.tolist(), predictions.tolist()
        ([1, 2], [0, 1], [[1, 0]])
    """
    labels_BTK = labels_BSK[:, shift:]
    batch_index, row = (labels_BTK != IGNORE_INDEX).any(dim=-1).nonzero(as_tuple=True)
    labels_NK = labels_BTK[batch_index, row]
    is_text = modality == "text"
    found = ComputedLogits(
        lambda number: logits.at(batch_index[number], row[number]), (len(row), *logits.shape[2:]), squeeze=is_text
    )
    predictions, nll = [labels_NK[:0]], [torch.zeros_like(labels_NK[:0], dtype=torch.float32)]
    for begin in range(0, len(row), found.step):
        part = slice(begin, begin + found.step)
        logits_XKV = logits.at(batch_index[part], row[part]).float()
        predictions.append(logits_XKV.max(dim=-1).indices)
        targets_XK = labels_NK[part]
        label_logits_XK = logits_XKV.gather(-1, targets_XK.clamp(min=0)[..., None])[..., 0]
        nll.append((logits_XKV.logsumexp(dim=-1) - label_logits_XK).masked_fill(targets_XK == IGNORE_INDEX, 0.0))
    labels_KN, nll_KN = labels_NK.T, torch.cat(nll).T
    rows = SupervisedRows(
        found,
        labels_KN[0] if is_text else labels_KN,
        nll_KN[0] if is_text else nll_KN,
        batch_index,
        row + shift,
        row,
    )
    return rows, torch.cat(predictions).T
