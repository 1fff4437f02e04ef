"""Names of the weights of Higgs TTS 3.

A checkpoint has the names of the authors (`body.*`, `tied.*`), or the names of the public port, which are the names of
the model's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Layouts of a checkpoint, by its names.
LAYOUTS = ("original", "port")
#: Prefixes of names in the port, with those of the authors. A prefix comes before a shorter one.
_PREFIXES = (
    ("model.embed_tokens.", "tied.embedding.text_embedding."),
    ("model.", "body."),
    ("audio_embedding.", "tied.embedding.modality_embeddings.0.embedding."),
    ("audio_head.", "tied.head.modality_heads.0."),
    ("lm_head.", "tied.head.text_head."),
)
#: Prefix of the bundled codec, which the trainer loads from a checkpoint of its own.
CODEC = "tied.embedding.modality_embeddings.0.model."


def original_name(port_name: str) -> str:
    """Return the authors' name of a weight.

    Example:
        >>> original_name("model.layers.0.self_attn.q_proj.weight"), original_name("model.embed_tokens.weight")
        ('body.layers.0.self_attn.q_proj.weight', 'tied.embedding.text_embedding.weight')
    """
    return _renamed(port_name, _PREFIXES)


def port_name(original: str) -> str:
    """Return the name of a weight in the port and in the model. A name of the port stays.

    Example:
        >>> port_name("tied.head.modality_heads.0.weight"), port_name("audio_head.weight")
        ('audio_head.weight', 'audio_head.weight')
    """
    return _renamed(original, [(theirs, ports) for ports, theirs in _PREFIXES])


def _renamed(name: str, prefixes: Sequence[tuple[str, str]]) -> str:
    for before, after in prefixes:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
