"""Command `doctor [--plan]`. Prints the facts of the machine, or whether a training fits into the memory."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from higgs_audio_trainer.cli.argument_parser import ArgumentParser
from higgs_audio_trainer.cli.train_flags import parse_train
from higgs_audio_trainer.errors import UserError, one_line
from higgs_audio_trainer.phases import STARTING, phase
from higgs_audio_trainer.third_party_imports import prepare_imports
from sinks import SinkError, specification
from sinks.terminal.escape import printable_lines

if TYPE_CHECKING:
    from higgs_audio_trainer.config import TrainSettings
    from higgs_audio_trainer.planning.advice import Change
    from higgs_audio_trainer.planning.estimate import Estimate, Load

_GIB = 2**30
_NOT_GIVEN = {"train_manifest": "train.jsonl", "output_dir": "out"}
_FITS_NOT = 1


def parser(prog: str) -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--plan] [flags of train]",
        description="Print versions, devices, room on disks and optional packages. With --plan,\n"
        "estimate the memory of a training from its config.json, before any download.",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        epilog="exit status: 0 it fits, or no card is known; 1 it does not fit; 2 bad input\n"
        f"example: {prog} --plan --batch_size 4 --card 24",
    )
    made.add_argument("--plan", action="store_true", help="estimate the memory of a training with the other flags")
    made.add_argument("--card", metavar="GB", type=float, help="memory of the card [that of the cards here]")
    made.add_argument("--clip_seconds", metavar="S", type=float, help="longest clip [10, or --max_seconds below]")
    made.add_argument("--ranks", metavar="N", type=int, help="processes, each with a card [WORLD_SIZE, or 1]")
    made.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")
    return made


def run(arguments: Sequence[str], prog: str) -> int:
    """Print the facts of the machine, or a plan, and return the exit status."""
    own = parser(prog)
    given, rest = own.parse_known_args(arguments)
    settings = parse_train(rest, prog, _NOT_GIVEN, others=own.long_flags())
    if isinstance(settings, str):  # --help_all
        print(settings)
        return 0
    _check(given)
    try:
        specification.load(settings.sinks)
    except SinkError as error:
        raise UserError(str(error)) from error
    with phase(STARTING, is_slow=True):
        prepare_imports()
        from higgs_audio_trainer.training.prepare_manifests import quiet_third_parties

    quiet_third_parties()
    return _plan(settings, given) if given.plan else _examine(settings, as_json=given.json)


def _check(given: Any) -> None:
    for name in ("card", "clip_seconds", "ranks"):
        value = getattr(given, name)
        if value is not None and not given.plan:
            raise UserError(f"--{name}: expected --plan beside it, got none. Add --plan")
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name}: expected more than 0, got {value:g}")


def _examine(settings: TrainSettings, *, as_json: bool) -> int:
    with phase("examining the machine"):
        facts = _all_facts(settings)
    print(json.dumps(facts) if as_json else printable_lines("\n".join(_facts(facts))))
    return 0


def _all_facts(settings: TrainSettings) -> dict[str, Any]:
    from higgs_audio_trainer.planning import machine

    return {
        "versions": machine.software(),
        "devices": machine.devices(),
        "host": machine.host(),
        "places": machine.places(settings.output_dir, settings.codes_dir),
        "base_ckpt": {"name": settings.base_ckpt, "is": machine.base_checkpoint(settings.base_ckpt)},
        "sinks": _sinks(),
        "optional": machine.optional_packages(),
    }


def _facts(facts: dict[str, Any]) -> Iterator[str]:
    yield "versions: " + ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    host = facts["host"]
    available = f", {_size(host['available'])} available" if "available" in host else ""
    yield f"host: {host['cores']} CPU cores, {_size(host['total'])} of memory{available}, {host['system']}"
    for number, device in enumerate(facts["devices"]):
        missing = "" if device["bfloat16"] else ", no bfloat16"
        yield f"device {number}: {device['name']}, {_size(device['free'])} of {_size(device['total'])} free{missing}"
    if not facts["devices"]:
        yield "devices: no CUDA device. A training would use the CPU"
    for name, place in facts["places"].items():
        room = [f"{_size(place['free'])} free"] if "free" in place else []
        yield f"{name}: {', '.join(filter(None, [place['path'], *room, place.get('error')]))}"
    yield f"base checkpoint: {facts['base_ckpt']['name']}, {facts['base_ckpt']['is']}"
    yield f"sinks: {', '.join(sink['name'] for sink in facts['sinks'] if 'error' not in sink)}"
    yield from (sink["error"] for sink in facts["sinks"] if "error" in sink)
    for package in facts["optional"]:
        state = "installed" if package["installed"] else f"missing; {package['install']}"
        yield f"{package['name']}: {state} (for {package['for']})"


def _plan(settings: TrainSettings, given: Any) -> int:
    from higgs_audio_trainer.checkpoint.base_checkpoint import open_config
    from higgs_audio_trainer.planning.advice import changes
    from higgs_audio_trainer.planning.estimate import Load, estimate

    load = Load(
        clip_seconds=given.clip_seconds or min(10.0, settings.max_seconds),
        ranks=given.ranks or _world_size(),
    )
    family, config = open_config(settings.base_ckpt)
    estimate_of = partial(estimate, family=family, config=config, load=load)
    with phase("estimating the memory"):
        made = estimate_of(settings)
        card = _card(given.card)
        fits = None if card is None else made.fits(card)
        advice = changes(settings, load, estimate_of, card) if card is not None and fits is False else []
    if given.json:
        print(json.dumps(_as_json(made, load, card, advice)))
    else:
        print(printable_lines("\n".join(_lines(settings, made, load, card, advice))))
    return _FITS_NOT if fits is False else 0


def _world_size() -> int:
    value = os.environ.get("WORLD_SIZE", "1")
    if not value.isdecimal() or int(value) == 0:
        raise UserError(f"WORLD_SIZE: expected a number of processes, got {value!r}. Give --ranks N")
    return int(value)


def _card(gigabytes: float | None) -> int | None:
    """Return the free memory of the card in bytes: of the given card, or of the fullest here. None without any."""
    if gigabytes is not None:
        return int(gigabytes * _GIB)
    from higgs_audio_trainer.planning.machine import devices

    return min((device["free"] for device in devices()), default=None)


def _as_json(made: Estimate, load: Load, card: int | None, advice: Sequence[Change]) -> dict[str, Any]:
    return {
        **asdict(made),
        "peak": made.peak,
        **asdict(load),
        "card": card,
        "fits": None if card is None else made.fits(card),
        "changes": [{"flags": change.flags, "peak": change.estimate.peak} for change in advice],
    }


def _lines(
    settings: TrainSettings, made: Estimate, load: Load, card: int | None, advice: Sequence[Change]
) -> Iterator[str]:
    from higgs_audio_trainer.planning.estimate import RESERVE, backend_of, batch_size_of

    share = 100 * made.trained / made.total
    numbers = f"{made.trained / 1e6:,.1f} M of {made.total / 1e6:,.1f} M"
    yield f"{settings.base_ckpt}: {numbers} parameters trained ({share:.3g} %)"
    clips = f"{batch_size_of(settings, load)} x {load.clip_seconds:g} s"
    checkpointing = "with" if settings.gradient_checkpointing else "without"
    parts = {
        "weights": made.weights,
        "gradients": made.gradients,
        "optimizer states": made.optimizer,
        f"activations, {clips}, {checkpointing} checkpointing": made.activations,
        f"exchange of {load.ranks} ranks": made.exchange,
    }
    for name, size in parts.items():
        if size or "exchange" not in name:
            yield f"  {name:<52} {size / _GIB:8.2f} GiB"
    yield f"  {'peak, estimated':<52} {made.peak / _GIB:8.2f} GiB"
    yield f"CUDA and its libraries take about {RESERVE / _GIB:g} GiB more. Decoded previews and scores are not included"
    backend = backend_of(settings)
    if backend == "FSDP" and load.ranks == 1:
        yield "FSDP divides nothing on one rank: say how many with --ranks N"
    if backend == "DeepSpeed":
        yield "DeepSpeed is not included: each rank counts with all weights, gradients and optimizer states"
    if card is None:
        yield "no card is known: name one with --card GB"
        return
    if made.fits(card):
        yield f"fits: {card / _GIB:.1f} GiB free"
        return
    yield f"does not fit: {card / _GIB:.1f} GiB free. In the order of cost, each beside those before:"
    for change in advice:
        ends = ", fits" if change.estimate.fits(card) else ""
        yield f"  {change.flags:<52} {change.estimate.peak / _GIB:8.2f} GiB{ends}"
    if not advice or not advice[-1].estimate.fits(card):
        yield "even so it does not fit: shorter clips (--max_seconds), a smaller --lora_r, or a larger card"
        if backend == "FSDP":
            yield "FSDP needs less with more ranks (--ranks N)"


def _size(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _sinks() -> list[dict[str, str]]:
    """Return the names of the built-in sinks and of the sinks that installed packages register.

    A sink whose import fails has an error.
    """
    registered = entry_points(group=specification.ENTRY_POINT_GROUP).names
    return [_sink(name) for name in ("console", "jsonl", "null", *sorted(registered))]


def _sink(name: str) -> dict[str, str]:
    try:
        specification.resolve(name)
    except SinkError as error:
        return {"name": name, "error": one_line(error)}
    return {"name": name}
