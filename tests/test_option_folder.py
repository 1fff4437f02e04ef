"""The option `dir` of every sink: an unknown home folder is an error with a way out, not a traceback."""

import pytest

from sinks import SinkContext, SinkError
from sinks.specification import build


@pytest.mark.parametrize("sink", ["jsonl", "trackio", "tensorboard", "wandb", "mlflow"])
def test_an_unknown_home_folder_is_refused(sink, tmp_path):
    """The message names the sink and the folder, and nothing is written."""
    pytest.importorskip("mlflow" if sink == "mlflow" else "orjson")
    message = f"^--sinks: {sink}: dir: expected a folder, got '~nobody-here/x', whose home folder is unknown"
    with pytest.raises(SinkError, match=message):
        build(f"{sink}:dir=~nobody-here/x", SinkContext(str(tmp_path / "out"), "a-run", 0, 0))
    assert list(tmp_path.iterdir()) == []
