"""Healthy trainings of all kinds, without findings worse than a note.

    python -m tests.zoo.healthy [--runs 54] [--foreign 30] [--voices 12] [--seed 0] [--workers 2]

Each training is small and real: codes with as much repetition and silence as speech, texts of many scripts, 1 to 12
codebooks, and various lengths, batches, learning rates, schedules and seeds. Every third training is of Higgs TTS 3,
with weights whose first loss is near chance. Evaluations use training samples. A tiny model that memorizes its samples
overfits other samples, and overfitting is a finding. `tests/zoo/foreign.py` has the trainings that are not ours. In a
voice training the model learns its samples by heart and speaks them all the while, from babble to good speech. Such a
training takes about 15 s on one core, a third of it for the speech. The command
prints the findings and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from higgs_audio_trainer.config import LORA_TARGETS
from higgs_audio_trainer.demo.run import CLIPS
from higgs_audio_trainer.families.known import DEFAULT_FAMILY

CODEBOOKS = (1, 2, 4, 8, 12)
NUM_CODES = 1024
_LEAST_SILENCE = 3  # frames at the end of a clip
_TTS3, _SPREAD = "higgs-tts-3", 0.1  # spread of the weights of Higgs TTS 3
_MOST_REPEATS = 0.85  # share of frames; no clip of speech says one code again and again
TEXTS = (
    "The kettle is on, and the tea is almost ready.",
    "القهوة جاهزة على الطاولة، والنافذة مفتوحة.",
    "今天下午三点有一艘船开往对岸。",
    "Семь кораблей медленно прошли мимо гавани.",
    "आज शाम को बारिश होगी, छाता ले जाना।",
    "お茶は熱いので、気をつけてください。",
    "Ο ήλιος έδυσε πίσω από το βουνό.",
    "Das Fenster bleibt heute Nacht offen!",
)

#: Forms of samples that a family has a place for.
FORMS = {
    DEFAULT_FAMILY: ("simple", "simple", "reference", "chatml"),
    _TTS3: ("simple", "reference"),  # no text in the answer
}
#: Weights of the text loss. Higgs TTS 3 learns texts at a weight above 0 alone.
TEXT_LOSS_WEIGHTS = {DEFAULT_FAMILY: (1.0, 0.1), _TTS3: (0.0, 0.0, 0.1)}


def plan(seed: int) -> dict[str, Any]:
    """Return random settings and traits of a training."""
    rng = random.Random(seed)
    family = _TTS3 if seed % 3 == 2 else DEFAULT_FAMILY
    steps = rng.choice([10, 20, 40, 60, 90, 150])
    settings = {
        "batch_size": rng.choice([1, 2, 4, 8]),
        "grad_accum": rng.choice([1, 1, 2]),
        "lr": 10 ** rng.uniform(-4, -2.3),
        "lora_dropout": rng.choice([0.0, 0.05, 0.1]),
        "lora_r": rng.choice([4, 16, 32]),
        "warmup": rng.choice([0.0, 0.03, 0.1, 5.0]),
        "max_steps": steps,
        "log_steps": rng.choice([1, 2, 5, 10]),
        "log_samples": rng.choice([1, 2, 4]),
        "text_loss_weight": rng.choice(TEXT_LOSS_WEIGHTS[family]),
        "seed": seed,
    }
    if rng.random() < 0.1:
        settings["dtype"] = "bfloat16"
    return {
        "family": family,
        "codebooks": rng.choice(CODEBOOKS),
        "settings": settings,
        "evaluates": rng.random() < 0.3,
        "clips": rng.random() < 0.25,
        "samples": rng.randint(3, 12),
        "frames": rng.choice([(4, 12), (20, 60), (40, 120), (10, 200)]),
        "repeats": rng.choice([0.0, 0.1, 0.3, 0.6]),
        "silence": rng.choice([0.0, 0.2, 0.5]),
        "alphabet": rng.choice([8, 60, NUM_CODES]),
        "form": rng.choice(FORMS[family]),
        "seed": seed,
    }


def voice_plan(seed: int) -> dict[str, Any]:
    """Return random settings and traits of a training that learns to speak."""
    rng = random.Random(f"voice {seed}")
    drawn = plan(seed) | {"family": DEFAULT_FAMILY}
    voice = {
        "lr": 10 ** rng.uniform(-2.5, -2),
        "lora_r": 32,
        "lora_alpha": 64,
        "lora_targets": f"{LORA_TARGETS},audio_lm_head",
        "batch_size": 8,
        "grad_accum": 1,
        "max_steps": rng.choice([40, 60, 80]),
        "log_steps": rng.choice([2, 5, 10]),
        "say_steps": rng.choice([5, 10, 20]),
        "say_samples": rng.choice([1, 2, 8]),
        "say_temperature": rng.choice([0.0, 0.0, 0.5]),
        "dtype": "float32",
    }
    frames = rng.choice([(20, 60), (40, 120)])  # with fewer frames the samples are too short for their texts
    clips = rng.random() < 0.4
    more = {"codebooks": rng.choice([1, 2, 4]), "evaluates": rng.random() < 0.2, "frames": frames, "clips": clips}
    return drawn | more | {"settings": drawn["settings"] | voice}


def codes_of(drawn: Mapping[str, Any], numbers: np.random.Generator) -> np.ndarray:
    """Return random codes of a clip, [K, T], with repeated tokens and silence at both ends.

    A few silent frames end every clip, as in recordings. Without this cue no model could predict the end.
    """
    size = int(numbers.integers(drawn["frames"][0], drawn["frames"][1] + 1))
    codes = numbers.integers(0, drawn["alphabet"], (drawn["codebooks"], size))
    for k, frame in zip(*np.nonzero(numbers.random((drawn["codebooks"], size)) < drawn["repeats"]), strict=True):
        if frame:
            codes[k, frame] = codes[k, frame - 1]
    quiet = int(drawn["silence"] * size / 2)
    silence = (7 * np.arange(drawn["codebooks"]) + 3)[:, None]
    codes[:, :quiet] = silence
    codes[:, size - max(quiet, _LEAST_SILENCE) :] = silence
    still = (codes[:, 1:] == codes[:, :-1]).mean(axis=1) > _MOST_REPEATS  # drawn by chance
    codes[still, quiet : size - max(quiet, _LEAST_SILENCE)] = (
        np.arange(size)[: size - quiet - max(quiet, _LEAST_SILENCE)] % 7
    )
    return codes


def write_manifest(drawn: Mapping[str, Any], folder: Path) -> Path:
    """Write samples with their codes, and return the manifest."""
    numbers, rng = np.random.default_rng(drawn["seed"]), random.Random(drawn["seed"])
    names = [f"sample-{index}" for index in range(drawn["samples"])]
    for name in names:
        np.save(folder / f"{name}.npy", codes_of(drawn, numbers))
    path = folder / "train.jsonl"
    lines = (json.dumps(_entry(drawn["form"], name, names, rng), ensure_ascii=False) for name in names)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _entry(form: str, name: str, names: Sequence[str], rng: random.Random) -> dict[str, Any]:
    text, other = f"{rng.choice(TEXTS)} {name}", rng.choice(names)
    simple = {"id": name, "codes": f"{name}.npy", "text": text}
    if form == "reference":
        return simple | {"ref_codes": f"{other}.npy", "ref_text": rng.choice(TEXTS)}
    if form == "chatml":
        answer = [{"type": "text", "text": rng.choice(TEXTS)}, {"type": "audio", "codes": f"{name}.npy"}]
        turns = [("system", "Speak."), ("user", text), ("assistant", answer)]
        return {"id": name, "messages": [{"role": role, "content": content} for role, content in turns]}
    return simple


def run(seed: int) -> dict[str, Any]:
    """Train with a seed and return the plan, the losses and the findings."""
    return _outcome(seed, plan(seed))


def run_voice(seed: int) -> dict[str, Any]:
    """Train a model with a seed that speaks meanwhile, and return the plan, the losses and the findings."""
    return _outcome(seed, voice_plan(seed))


def _outcome(seed: int, drawn: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from tests.zoo.runs import alarms, train, write_base

    torch.set_num_threads(1)
    settings = dict(drawn["settings"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spread = _SPREAD if drawn["family"] == _TTS3 else None
        base = write_base(folder / "base", drawn["codebooks"], seed=seed, family=drawn["family"], spread=spread)
        manifest = CLIPS / "manifest.jsonl" if drawn["clips"] else write_manifest(drawn, folder)
        if drawn["evaluates"]:
            settings |= {"eval_manifest": str(manifest), "val_steps": max(2, settings["max_steps"] // 4)}
        memory = train(base, manifest, folder / "out", **settings)
    steps = memory.named("train_step")
    return {
        "seed": seed,
        "kind": f"{drawn['family']} K {drawn['codebooks']}{' with voice' if 'say_steps' in settings else ''}",
        "steps": settings["max_steps"],
        "lr": settings["lr"],
        "loss": (steps[0]["loss"], steps[-1]["loss"]),
        "logged_steps": len(steps),
        "generations": len({event["step"] for event in memory.named("generation_sample")}),
        "notes": sorted({e["code"] for e in memory.named("diagnosis") if e["severity"] == "note"} - {"mask_audit"}),
        "alarms": [(event["code"], event["step"], event["message"]) for event in alarms(memory)],
    }


def run_foreign(seed: int) -> dict[str, Any]:
    """Train, with a seed, a training that is not ours, and return the plan, the losses and the findings."""
    from tests.zoo import foreign

    return foreign.run(seed)


def train_all(
    runs: int, *, foreign: int = 0, voices: int = 0, seed: int = 0, workers: int = 2
) -> Iterator[dict[str, Any]]:
    """Train with consecutive seeds in several processes, and yield the results of `run` and the others."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(run, range(seed, seed + runs))
        yield from pool.imap(run_foreign, range(seed, seed + foreign))
        yield from pool.imap(run_voice, range(seed, seed + voices))
        pool.close()
        pool.join()  # otherwise the pool kills the workers before their cleanup


def main() -> int:
    """Train with all seeds and print a line for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=54)
    parser.add_argument("--foreign", type=int, default=30, help="trainings that are not ours [%(default)s]")
    parser.add_argument("--voices", type=int, default=12, help="trainings that speak [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others count on from there")
    parser.add_argument("--workers", type=int, default=2, help="processes [%(default)s]")
    given = parser.parse_args()
    alarms = steps = 0
    counts = {"foreign": given.foreign, "voices": given.voices}
    for outcome in train_all(given.runs, **counts, seed=given.seed, workers=given.workers):
        alarms += bool(outcome["alarms"])
        steps += outcome["logged_steps"]
        first, last = outcome["loss"]
        print(
            f"seed {outcome['seed']:<4} {outcome['kind']:<36} {outcome['steps']:>3} steps "
            f"lr {outcome['lr']:.1e}  loss {first:6.2f} to {last:6.2f}  {' '.join(outcome['notes'])}",
            *(f"\n    {code} at step {step}: {message}" for code, step, message in outcome["alarms"]),
            flush=True,
        )
    print(f"{given.runs + given.foreign + given.voices} healthy runs, {steps} logged steps: {alarms} with an alarm")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
