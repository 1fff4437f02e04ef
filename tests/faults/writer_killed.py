"""Program without torch that kills forked writers at random times and prints the numbers of acknowledged events.

Usage: python -m tests.faults.writer_killed FOLDER KILLS SEED
"""

import itertools
import json
import os
import random
import signal
import struct
import sys
from pathlib import Path

from higgs_audio_trainer.events import Checkpoint, Diagnosis, TrainStep
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks.jsonl import JsonlSink

ACK = struct.Struct("<I")
STEP = TrainStep(
    step=1,
    epoch=1.0,
    loss=1.0,
    text_loss=0.5,
    audio_loss=0.5,
    audio_loss_per_codebook=(0.5,),
    text_accuracy=None,
    audio_accuracy_per_codebook=(None,),
    text_targets=1,
    audio_targets=1,
    learning_rate=1e-4,
    grad_norm=None,
    step_ms=1.0,
    logging_ms=1.0,
)
# long enough for a kill during the write
LONG = Diagnosis(step=1, code="x", severity="info", message="m" * 200_000, evidence={})
EVENTS = [STEP, LONG, STEP, Checkpoint(step=1, path="checkpoint-1"), LONG]
OPTIONS = [{}, {"max_bytes": 300_000}, {"durability": "checkpoint"}, {"max_bytes": 4096, "keep": None}]


def write(path, options, acknowledge):
    """Write for ever, and acknowledge each event after the call of emit returns."""
    emit = Pipeline([("jsonl", JsonlSink(path, **options))], run_id="r")
    for seq in itertools.count():
        emit(EVENTS[seq % len(EVENTS)])
        assert emit.lost == 0
        os.write(acknowledge, ACK.pack(seq))


def kill_one(path, options, wanted, spins):
    """Kill a child after `wanted` acknowledged events and a moment, and return the number of acknowledged events."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        write(path, options, writer)
    os.close(writer)
    got = b""
    while len(got) < wanted * ACK.size:
        part = os.read(reader, 65536)
        assert part, "the writer died by itself"
        got += part
    for _ in range(spins):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reader, 65536):
        got += part
    os.close(reader)
    seqs = [seq for (seq,) in ACK.iter_unpack(got)]
    assert seqs == list(range(len(seqs)))
    return len(seqs)


def main(folder, kills, seed):
    """Kill `kills` writers, and print the number of acknowledged events of each writer."""
    chance = random.Random(seed)
    acknowledged = []
    for number in range(kills):
        path = Path(folder) / str(number) / "a.jsonl"
        options = OPTIONS[number % len(OPTIONS)]
        acknowledged.append(kill_one(path, options, chance.randrange(30), chance.randrange(20_000)))
    print(json.dumps({"acknowledged": acknowledged, "torch": "torch" in sys.modules}))  # noqa: T201 - a program


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
