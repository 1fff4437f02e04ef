"""Readers of logs for tests. The JSON objects are as the lines contain the objects."""

from higgs_audio_trainer.logs.reader import read_lines


def read(*paths, **options):
    """Yield the records of logs, in the reader's order."""
    return (line.record for line in read_lines(*paths, **options))
