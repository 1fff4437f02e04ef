"""The base checkpoint: its configuration and tokenizer, checked before anything large is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.config import DEFAULT_AUDIO_TOKENIZER
from higgs_audio_trainer.data.batch import TokenIds
from higgs_audio_trainer.data.manifest import Sample
from higgs_audio_trainer.data.prompt import REQUIRED_TOKENS, STOP_TOKENS, as_messages, render_text
from higgs_audio_trainer.errors import UserError

if TYPE_CHECKING:
    from transformers import HiggsAudioV2Config, PreTrainedTokenizerBase

NATIVE_MODEL_TYPE, BOSON_MODEL_TYPE = "higgs_audio_v2", "higgs_audio"


@dataclass(frozen=True, slots=True)
class BaseCheckpoint:
    """What a base checkpoint says of itself."""

    name: str
    config: HiggsAudioV2Config
    tokenizer: PreTrainedTokenizerBase
    ids: TokenIds
    text_stop_ids: tuple[int, ...]

    @property
    def audio_token_ids(self) -> tuple[int, int]:
        """Ids of both placeholders of the audio stream."""
        return self.ids.audio, self.ids.audio_delay


def open_checkpoint(name: str) -> BaseCheckpoint:
    """Read configuration and tokenizer of a base checkpoint.

    Args:
        name: a folder, or a name on the Hugging Face Hub.

    Raises:
        UserError: it is not there, in Boson's original layout, of another model, or its parts do not fit.
    """
    config = _open_config(name)
    tokenizer = _open_tokenizer(name)
    ids = {token: _token_id(tokenizer, token) for token in (*REQUIRED_TOKENS, *STOP_TOKENS)}
    missing = [token for token in REQUIRED_TOKENS if ids[token] is None]
    if missing:
        raise UserError(f"--base_ckpt {name}: expected a tokenizer with the tokens of Higgs, got one without {missing}")
    if ids["<|AUDIO_OUT|>"] != config.audio_token_id:
        raise UserError(
            f"--base_ckpt {name}: expected <|AUDIO_OUT|> to be token {config.audio_token_id}, as config.json says, got "
            f"{ids['<|AUDIO_OUT|>']} from the tokenizer. They belong to different checkpoints."
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.pad_token_id
    return BaseCheckpoint(
        name,
        config,
        tokenizer,
        TokenIds(
            pad=int(pad or 0),
            audio=config.audio_token_id,
            audio_delay=config.audio_delay_token_id,
            stream_bos=config.audio_stream_bos_id,
            stream_eos=config.audio_stream_eos_id,
            num_codebooks=config.num_codebooks,
        ),
        tuple(token_id for token in STOP_TOKENS if (token_id := ids[token]) is not None),
    )


def _open_config(name: str) -> HiggsAudioV2Config:
    from transformers import HiggsAudioV2Config, PreTrainedConfig

    try:
        raw, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--base_ckpt: expected a folder with a config.json or a name on the Hugging Face Hub, got {name!r}, which is "
            "not there or cannot be fetched. Check the path, or the network."
        ) from error
    kind = raw.get("model_type")
    if kind == BOSON_MODEL_TYPE:
        raise UserError(
            f"--base_ckpt {name}: expected model_type {NATIVE_MODEL_TYPE}, got {kind}: this is Boson's original layout. "
            "Use a checkpoint converted to transformers' native layout (transformers has the script: "
            "models/higgs_audio_v2/convert_higgs_audio_v2_to_hf.py), with text_lm_head.weight kept."
        )
    if kind != NATIVE_MODEL_TYPE:
        raise UserError(f"--base_ckpt {name}: expected model_type {NATIVE_MODEL_TYPE}, got {kind!r}")
    config = HiggsAudioV2Config.from_dict(raw)
    highest = max(config.audio_stream_bos_id, config.audio_stream_eos_id)
    if config.codebook_size <= highest:
        raise UserError(
            f"--base_ckpt {name}: expected codebook_size of at least {highest + 1}, to hold stream BOS "
            f"{config.audio_stream_bos_id} and EOS {config.audio_stream_eos_id}, got {config.codebook_size}"
        )
    return config


def _open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(f"--base_ckpt {name}: expected a tokenizer beside the model, got none ({first_line})") from error
    return tokenizer


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    token_id: int | None = tokenizer.get_vocab().get(token)
    return token_id


def codec_of(name: str) -> str:
    """Find the codec that a base checkpoint's processor names; the default one if it names none."""
    import json

    from transformers.utils import cached_file

    path = cached_file(
        name, "processor_config.json", _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return DEFAULT_AUDIO_TOKENIZER
    with open(path, "rb") as file:  # noqa: PTH123 - a path that the hub's cache gives as text
        entry: dict[str, Any] = json.load(file).get("audio_tokenizer") or {}
    return str(entry.get("audio_tokenizer_name_or_path") or DEFAULT_AUDIO_TOKENIZER)


def check_template(checkpoint: BaseCheckpoint, samples: list[Sample]) -> None:
    """Compare our prompt with what the checkpoint's chat template renders, on the first sample it can render.

    Raises:
        UserError: they differ; training would teach another prompt than generation uses.
    """
    from jinja2 import TemplateError

    if checkpoint.tokenizer.chat_template is None:
        return
    sample, messages = next(((s, m) for s in samples if (m := as_messages(s)) is not None), (None, None))
    if sample is None or messages is None:
        return
    try:
        rendered = str(checkpoint.tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError as error:
        raise UserError(
            f"--base_ckpt {checkpoint.name}: expected a chat template that renders speech in assistant turns, got: {error}"
        ) from error
    ours = render_text(sample)
    if rendered.strip("\n") != ours:
        at = next((i for i, (a, b) in enumerate(zip(rendered, ours, strict=False)) if a != b), min(len(rendered), len(ours)))
        raise UserError(
            f"--base_ckpt {checkpoint.name}: expected its chat template to render {ours[at : at + 40]!r} at character {at} "
            f"of sample {sample.id!r}, got {rendered[at : at + 40]!r}. This trainer writes the prompt of Higgs Audio v2's "
            "native checkpoint; another prompt would not be the one that generation uses."
        )
