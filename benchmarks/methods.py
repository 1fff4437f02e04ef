"""Memory of each method of training, for cards of 8 to 80 GB: the table of `docs/methods.md`.

    python -m benchmarks.methods [--write]

prints the tables, or writes them into the page. The figures are those of `doctor --plan`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.workload import published_config
from higgs_audio_trainer.config import TrainSettings
from higgs_audio_trainer.families.known import FAMILIES
from higgs_audio_trainer.planning.estimate import RESERVE, Estimate, Load, estimate

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
CARDS_GB = (8, 12, 16, 24, 40, 80)
CLIP_SECONDS = (10.0, 30.0)
_FEW, _MORE = 1, 32  # samples of the smallest and the largest batch. Between them memory is at most linear
_GIB = 2**30
_SMALL_OPTIMIZER: Mapping[str, Any] = MappingProxyType({"optim": "adamw_bnb_8bit"})


@dataclass(frozen=True, slots=True)
class Method:
    """Method of training.

    Attributes:
        name: Name in the table.
        settings: Settings beside the defaults.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def flags(self) -> str:
        """Settings as flags of `train`."""
        given = {**self.settings, **self.settings.get("extra", {})}
        given.pop("extra", None)
        return " ".join(f"--{name} {str(value).lower()}" for name, value in given.items())


_CHECKPOINTING = {"gradient_checkpointing": True}
METHODS = (
    Method("QLoRA, 4 bit", {"load_in_4bit": True, **_CHECKPOINTING}),
    Method("QLoRA, 8 bit", {"load_in_8bit": True, **_CHECKPOINTING}),
    Method("LoRA", _CHECKPOINTING),
    Method("LoRA without checkpointing", {}),
    Method("DoRA", {"use_dora": True, **_CHECKPOINTING}),
    Method("full, bfloat16", {"full_finetune": True, "dtype": "bfloat16", "extra": _SMALL_OPTIMIZER, **_CHECKPOINTING}),
    Method("full, float32", {"full_finetune": True, "extra": _SMALL_OPTIMIZER, **_CHECKPOINTING}),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Peak memory that `benchmarks.device` measured: forward and backward with LoRA of rank 16, 8 clips of 10 s.

    Attributes:
        family: Name of the family.
        checkpointing: Whether activations are computed again.
        peak_gib: Peak in GiB, on an H100.
    """

    family: str
    checkpointing: bool
    peak_gib: float


MEASURED = (
    Measured("higgs-audio-v2", checkpointing=False, peak_gib=21.65),
    Measured("higgs-audio-v2", checkpointing=True, peak_gib=11.96),
    Measured("higgs-tts-3", checkpointing=False, peak_gib=24.12),
    Measured("higgs-tts-3", checkpointing=True, peak_gib=8.86),
)


def settings_of(method: Method, **more: Any) -> TrainSettings:
    """Return the settings of a training with a method."""
    return TrainSettings(**{"train_manifest": "train.jsonl", "output_dir": "out", **method.settings, **more})


def estimate_of(family: str, settings: TrainSettings, clip_seconds: float) -> Estimate:
    """Return the estimate for the published checkpoint of a family."""
    return estimate(settings, FAMILIES[family], published_config(family), Load(clip_seconds))


def estimate_as_measured(measured: Measured) -> int:
    """Return the estimated bytes of a measured step, which had no optimizer and few gradients at its peak."""
    lora = Method("LoRA", {"lora_r": 16, "lora_dropout": 0.0, "gradient_checkpointing": measured.checkpointing})
    made = estimate_of(measured.family, settings_of(lora, batch_size=8, grad_accum=1), 10.0)
    return made.weights + made.activations


def peaks(family: str, method: Method, clip_seconds: float) -> tuple[int, int]:
    """Return the estimated peak of one clip, and the bytes of each further clip."""
    few, more = (estimate_of(family, settings_of(method, batch_size=size), clip_seconds).peak for size in (_FEW, _MORE))
    return few, max(1, (more - few) // (_MORE - _FEW))


def largest_batch(one: int, further: int, memory: int) -> int:
    """Return the largest number of clips that fit, at most 32, and 0 for none.

    Example:
        >>> largest_batch(8 * _GIB, _GIB, 12 * _GIB), largest_batch(8 * _GIB, _GIB, 8 * _GIB)
        (4, 0)
    """
    left = memory - RESERVE - one
    return 0 if left < 0 else min(_MORE, 1 + left // further)


def row(family: str, method: Method, clip_seconds: float) -> str:
    """Return a row of the table."""
    one, further = peaks(family, method, clip_seconds)
    batches = [largest_batch(one, further, card * _GIB) for card in CARDS_GB]
    cells = [method.name, f"{clip_seconds:g} s", f"{one / _GIB:.1f}", f"{further / _GIB:.2f}"]
    return _line([*cells, *(f"{batch}+" if batch == _MORE else str(batch or "-") for batch in batches)])


def tables() -> Iterator[str]:
    """Yield the lines of all tables."""
    yield from _table(["method", "flags"], [[method.name, f"`{method.flags}`"] for method in METHODS[:3] + METHODS[4:]])
    for name, family in FAMILIES.items():
        yield f"### {family.published}"
        yield ""
        heads = ["method", "clips", "GiB, one clip", "each more", *(f"{card} GB" for card in CARDS_GB)]
        yield from _table(heads, [])[:-1]
        yield from (row(name, method, seconds) for method in METHODS for seconds in CLIP_SECONDS)
        yield ""
    yield "### Beside measurements"
    yield ""
    cells = [
        [
            one.family,
            "with" if one.checkpointing else "without",
            f"{one.peak_gib:.2f} (measured)",
            f"{estimate_as_measured(one) / _GIB:.2f} (estimated)",
        ]
        for one in MEASURED
    ]
    yield from _table(["family", "checkpointing", "peak in GiB, H100", "peak in GiB"], cells)


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [_line(heads), _line(["---"] * len(heads)), *map(_line, cells), ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or write them between the marks of the page."""
    made = "\n".join(tables())
    if arguments != ["--write"]:
        print(made)
        return 0
    text = PAGE.read_text(encoding="utf-8")
    text = re.sub(r"(?s)(<!-- tables -->\n).*(<!-- end -->)", lambda match: f"{match[1]}\n{made}\n{match[2]}", text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
