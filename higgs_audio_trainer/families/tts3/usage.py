"""How to speak with checkpoints and adapters of Higgs TTS 3 without this package: the servers that load them."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_RANK = 32  # of an adapter that SGLang-Omni serves
_HEADS = ("audio_head", "lm_head")

_WHOLE = """\
With SGLang-Omni or vLLM-Omni, which load the original layout:

```bash
sgl-omni serve --model-path {folder} --port 8000
vllm-omni serve {folder} --trust-remote-code --omni --port 8000
```

and then, with either:

```bash
curl http://localhost:8000/v1/audio/speech -H "Content-Type: application/json" -o hello.wav \\
  -d '{{"model": "{folder}", "voice": "default", "input": "Bonjour tout le monde."}}'
```"""
_PORT = (
    "These are the names of the public port. SGLang-Omni and vLLM-Omni load the original layout: "
    "`higgs-audio-trainer export-model OUT DIR`."
)
_NAMED = "SGLang-Omni serves the adapter as a named voice of `{base}`."
_TOO_LARGE = (
    f"SGLang-Omni serves adapters up to rank {_MOST_RANK} as named voices of their base. This one, of `{{base}}`, has "
    "rank {rank}."
)
_MERGED = """\
vLLM-Omni serves whole checkpoints:

```bash
higgs-audio-trainer export-model {adapter} merged
vllm-omni serve merged --trust-remote-code --omni --port 8000
```"""
_WITH_HEADS = """\
The adapter changes a head whose weights are those of an embedding, which servers do not know. It can be merged into a
checkpoint with the names of the public port:

```bash
higgs-audio-trainer export-model {adapter} merged --layout port
```"""


def adapter_usage(*, folder: str, base: str, rank: int, targets: Sequence[str]) -> str:
    """Return Markdown for a card, see `Family.adapter_usage`."""
    adapter = "." if folder == "." else "adapter"
    if any(target.endswith(_HEADS) for target in targets):
        return _WITH_HEADS.format(adapter=adapter)
    named = (_NAMED if rank <= _MOST_RANK else _TOO_LARGE).format(base=base, rank=rank)
    return f"{named} {_MERGED.format(adapter=adapter)}"


def whole_usage(*, folder: str, layout: str) -> str:
    """Return Markdown for a card, see `Family.whole_usage`."""
    return _WHOLE.format(folder=folder) if layout == "original" else _PORT
