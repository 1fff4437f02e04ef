"""Errors that are the user's to mend: what they say."""

import pytest

from higgs_audio_trainer.errors import Fault, ManifestError


@pytest.mark.parametrize(("count", "counted"), [(1, "1 fault."), (2, "2 faults.")])
def test_manifest_error_lists_every_fault(count, counted):
    """A manifest's faults are listed at once, each with its place, and the way out stands last."""
    faults = [Fault(f"m.jsonl:{line}", "audio", "a file", "nothing") for line in range(1, count + 1)]
    error = ManifestError(faults)
    *lines, last = str(error).splitlines()
    assert error.faults == tuple(faults)
    assert lines == [f"m.jsonl:{line}: audio: expected a file, got nothing" for line in range(1, count + 1)]
    assert last.startswith(counted)
    assert "--skip_bad_samples" in last
