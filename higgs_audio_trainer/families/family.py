"""What a family of models provides, and a base checkpoint of a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from higgs_audio_trainer.data.batch import TokenIds, Vocabulary
from higgs_audio_trainer.data.fields import BadField
from higgs_audio_trainer.data.prompt import PromptSegment, TokenSegment, tokenize_all
from higgs_audio_trainer.data.sample import Sample
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from higgs_audio_trainer.families.quantization import Quantization
    from higgs_audio_trainer.families.speech import Decoding, Speech, SpeechPrompt
    from higgs_audio_trainer.families.tiny_size import TinySize


class Family(Protocol):
    """A family of models.

    Attributes:
        name: Name for users, in `run_start` and of `--family`.
        model_type: `model_type` of config.json.
        text_loss_weight: Weight of the text loss by default.
        layouts: Layouts that a whole checkpoint can have, the usual one first.
        demo_settings: Settings of the demo with which a tiny checkpoint learns to speak, beside those of all families.
        published: Name on the Hub of the published checkpoint.
        published_config: Sizes of the published checkpoint, as in its config.json.
    """

    name: str
    model_type: str
    text_loss_weight: float
    layouts: tuple[str, ...]
    demo_settings: Mapping[str, Any]
    published: str
    published_config: Mapping[str, Any]

    def read_config(self, name: str, raw: Mapping[str, Any]) -> Any:
        """Return the configuration of a checkpoint.

        Args:
            name: Folder, or name on the Hugging Face Hub, for messages.
            raw: Content of config.json.

        Raises:
            UserError: The configuration is inconsistent.
        """
        ...

    def open(self, name: str, raw: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> BaseCheckpoint:
        """Return a base checkpoint.

        Args:
            name: Folder, or name on the Hugging Face Hub.
            raw: Content of config.json.
            tokenizer: Tokenizer of the checkpoint.

        Raises:
            UserError: Configuration and tokenizer are inconsistent, or tokens are missing.
        """
        ...

    def render(self, sample: Sample) -> list[PromptSegment]:
        """Return the segments of a sample's prompt.

        A speech to learn is a supervised clip. The segments before it are the prompt of a generation.

        Raises:
            BadField: The sample has a part that the family has no place for.
        """
        ...

    def check_samples(self, checkpoint: BaseCheckpoint, samples: Sequence[Sample]) -> None:
        """Check that the prompts of samples are those of the checkpoint.

        Raises:
            UserError: A generation of the checkpoint would use another prompt.
        """
        ...

    def for_training(
        self, name: str, *, dtype: torch.dtype, attention: str | None, quantization: Quantization | None = None
    ) -> Any:
        """Return the model of a base checkpoint with a forward pass for training, see `TrainingForward`.

        Args:
            name: Folder, or name on the Hub.
            dtype: Type of the weights.
            attention: Implementation of attention, as `attn_implementation` of transformers. None for the usual one.
            quantization: Numbers of the linear modules, all but the heads. None for `dtype`.

        Raises:
            UserError: The weights cannot be loaded, or some are missing or unexpected.
        """
        ...

    def without_weights(self, config: Any) -> Any:
        """Return the model for training on the meta device, to look up the names and shapes of its parameters.

        Args:
            config: Configuration of the base checkpoint.

        Raises:
            UserError: The sizes in the configuration fit no model.
        """
        ...

    def for_speech(
        self, name: str, *, dtype: torch.dtype, adapted: Sequence[str], quantization: Quantization | None = None
    ) -> Any:
        """Return the model of a base checkpoint for generation.

        Args:
            name: Folder, or name on the Hub.
            dtype: Type of the weights.
            adapted: Names of the weights of the adapter that follows.
            quantization: Numbers of the linear modules, all but the heads. None for `dtype`.

        Raises:
            UserError: The weights cannot be loaded.
        """
        ...

    def generate(
        self,
        model: Any,
        prompts: Sequence[SpeechPrompt],
        decoding: Decoding,
        ids: TokenIds,
        is_asked_to_stop: Callable[[], bool],
    ) -> list[Speech]:
        """Speak prompts as one batch with seeded random generators and no gradients.

        Args:
            model: Model of the family, perhaps with adapters.
            prompts: Prompts, at least one.
            decoding: Choice of codes.
            ids: Token ids of the checkpoint.
            is_asked_to_stop: Asked at each frame. True ends the speech, as the limit would.

        """
        ...

    def write_whole(
        self, checkpoint: BaseCheckpoint, trained: Callable[[Any], Any], folder: Path, *, layout: str
    ) -> None:
        """Write weights and configuration of a base checkpoint with trained weights, in the types of the base.

        Args:
            checkpoint: Base checkpoint.
            trained: Returns the model with trained weights, such as a merged adapter.
            folder: Folder to write to.
            layout: One of `layouts`.

        Raises:
            UserError: The weights cannot be loaded, or the adapter does not fit.
            OSError: A file cannot be written.
        """
        ...

    def adapter_mapping(self) -> dict[str, str] | None:
        """Return the entry `auto_mapping` of an adapter's configuration. None if a public package has no class."""
        ...

    def adapter_usage(self, *, folder: str, base: str, rank: int, targets: Sequence[str]) -> str:
        """Return Markdown that tells how to speak with an adapter without this package.

        Args:
            folder: Folder or name on the Hub of the adapter.
            base: Base checkpoint.
            rank: Rank of the adapter.
            targets: Names of the adapted modules.
        """
        ...

    def whole_usage(self, *, folder: str, layout: str) -> str:
        """Return Markdown that tells how to speak with a whole checkpoint without this package.

        Args:
            folder: Folder or name on the Hub of the checkpoint.
            layout: One of `layouts`.
        """
        ...

    def write_tiny(self, folder: Path, size: TinySize, codec_dir: Path, codec_class: str) -> None:
        """Write a tiny checkpoint with random weights in the family's format, with its tokenizer.

        Args:
            folder: Folder to write to.
            size: Size of the checkpoint.
            codec_dir: Folder of the codec that the checkpoint names.
            codec_class: Class of the codec.
        """
        ...


@dataclass(frozen=True, slots=True)
class BaseCheckpoint:
    """Configuration, tokenizer and special token ids of a base checkpoint.

    Attributes:
        name: Folder, or name on the Hugging Face Hub.
        family: Family of the model.
        config: Configuration of transformers.
        tokenizer: Tokenizer.
        ids: Token ids and layout.
        text_stop_ids: Tokens that end a text.
        max_length: Positions of the longest sequence.
    """

    name: str
    family: Family
    config: Any
    tokenizer: PreTrainedTokenizerBase
    ids: TokenIds
    text_stop_ids: tuple[int, ...]
    max_length: int

    @property
    def vocabulary(self) -> Vocabulary:
        """Special token ids: stop tokens, stream BOS and EOS, placeholders."""
        ids = self.ids
        placeholders = tuple(dict.fromkeys((ids.audio, ids.audio_delay)))
        return Vocabulary(self.text_stop_ids, ids.stream_bos, ids.stream_eos, placeholders, ids.bos_frames > 0)

    def tokenize(self, sample: Sample) -> list[TokenSegment]:
        """Return the tokens of a sample's segments.

        Raises:
            UserError: The sample has a part that the family has no place for.
        """
        try:
            rendered = self.family.render(sample)
        except BadField as bad:
            raise UserError(f"{sample.where}: {bad}") from bad
        return tokenize_all([rendered], self.tokenizer)[0]

    def with_text_loss(self, weight: float) -> BaseCheckpoint:
        """Return the checkpoint for a training with a weight of the text loss. A weight of 0 may mask all texts."""
        learns = weight > 0 or self.family.text_loss_weight > 0
        return replace(self, ids=replace(self.ids, learns_text=learns))
