"""How to speak with checkpoints and adapters of Higgs Audio v2 without this package."""

from __future__ import annotations

from higgs_audio_trainer.data.manifest import DEFAULT_SYSTEM_PROMPT

#: Speech without this package. `docs/native_loading.md` has the same lines, and a test runs them.
_NATIVE_LINES = """\
{imports}

{load}
processor = AutoProcessor.from_pretrained("{folder}", device_map="auto")
system = {{"role": "system", "content": [{{"type": "text", "text": "{system}"}}]}}
user = {{"role": "user", "content": [{{"type": "text", "text": "Bonjour tout le monde."}}]}}
inputs = processor.apply_chat_template(
    [system, user], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
codes = model.generate(**inputs.to(model.device), max_new_tokens=1000)
processor.save_audio(processor.batch_decode(codes), "hello.wav")
"""
_ADAPTED = (
    "from peft import PeftModel\nfrom transformers import AutoProcessor, HiggsAudioV2ForConditionalGeneration",
    """\
base = HiggsAudioV2ForConditionalGeneration.from_pretrained(
    "{base}", device_map="auto"
)
model = PeftModel.from_pretrained(base, "{folder}")""",
)
_WHOLE = (
    "from transformers import AutoProcessor, HiggsAudioV2ForConditionalGeneration",
    'model = HiggsAudioV2ForConditionalGeneration.from_pretrained("{folder}", device_map="auto")',
)


def native_lines(*, folder: str, base: str | None = None) -> str:
    """Return the lines that speak with transformers and peft alone.

    Args:
        folder: Folder or name on the Hub of the adapter or of the whole checkpoint.
        base: Base checkpoint of an adapter. None for a whole checkpoint.
    """
    imports, load = _WHOLE if base is None else _ADAPTED
    load = load.format(base=base, folder=folder)
    return _NATIVE_LINES.format(imports=imports, load=load, folder=folder, system=DEFAULT_SYSTEM_PROMPT)


def usage(*, folder: str, base: str | None = None) -> str:
    """Return Markdown for a card, see `Family.adapter_usage` and `Family.whole_usage`."""
    needs = "transformers" if base is None else "transformers and peft"
    place = ", from this folder" if folder == "." else ""
    lines = native_lines(folder=folder, base=base)
    return f"With {needs} alone{place} (the class of the Higgs codec needs torchaudio):\n\n```python\n{lines}```"
