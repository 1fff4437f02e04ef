"""What a notebook shows of a log and of a logger: tables of escaped text, as `show --summary` has them."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
import transformers

from higgs_audio_trainer import PredictionLogger, read
from tests.adapted import make
from tests.builders import diagnosis, eval_result, run_end, run_start, train_step
from tests.test_prediction_logger import Tokens, arguments, log_of, named
from tests.test_reader import dump, file_of, records_of

HOSTILE = "<script>alert('\"&\x1b[2J\u202e</script>"


class Shown(HTMLParser):
    """Rows of cells, and the tags of a page."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self._is_cell = [], set(), False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._is_cell = tag in ("td", "th")

    def handle_endtag(self, tag):
        self._is_cell = False

    def handle_data(self, data):
        if self._is_cell:
            self.rows[-1][-1] += data

    def row(self, name):
        """Return the cells beside a name."""
        (found,) = [cells for first, *cells in self.rows if first == name]
        return found


def log(folder, *events, run_id="a-run"):
    """Write a log."""
    file_of(folder).write_bytes(dump([record | {"run_id": run_id} for record in records_of(events)]))
    return folder


def step(number, loss, accuracy):
    """Make a logged step of text and two codebooks."""
    return train_step(
        step=number,
        loss=loss,
        text_loss=loss / 4,
        audio_loss=loss,
        audio_loss_per_codebook=(loss, loss + 1),
        text_accuracy=accuracy,
        audio_accuracy_per_codebook=(accuracy, accuracy / 2),
    )


def trained(folder, logger, **settings):
    """Train a tiny Llama with a logger and with evaluations."""
    model, args = make("llama")[0].train(), arguments(folder, **settings)
    transformers.Trainer(model, args, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[logger]).train()


def test_a_log_shows_its_summary(tmp_path):
    """State, figures of all rows, and problems are those of the events."""
    found = diagnosis(step=10, code="no_stop_target", severity="error")
    events = run_start(), step(1, 8.0, 0.1), step(10, 2.0, 0.5), eval_result(step=10, loss=3.0), found
    shown = Shown(read(log(tmp_path, *events, run_end(step=10, reason="completed")))._repr_html_())
    assert shown.row("state") == ["completed at step 10; begun 0-0"]
    assert shown.row("text") == ["2.000", "0.500", "0.500", "10", "10.0%", "50.0%", "50.0%", "10"]
    assert shown.row("codebook 1") == ["9.000", "3.000", "3.000", "10", "5.0%", "25.0%", "25.0%", "10"]
    assert shown.row("eval total")[:2] == ["3.000", "3.000"]
    (problem,) = shown.row("problems")
    assert problem.startswith("error: no_stop_target")


def test_a_log_is_read_after_it_was_shown(tmp_path):
    """To show a log takes no event away, and reading it partly changes nothing of what is shown."""
    events = read(log(tmp_path, run_start(), step(1, 8.0, 0.1), step(2, 7.0, 0.2)))
    before = events._repr_html_()
    assert next(events).event == "run_start"
    assert [event.step for event in events] == [1, 2]
    assert events._repr_html_() == before
    assert repr(events) == f"<events of '{tmp_path}'>"


def test_text_of_a_log_is_shown_and_does_nothing(tmp_path):
    """Tags are text, and control characters are visible escapes."""
    start = run_start(config={"lr": HOSTILE, "dtype": HOSTILE}, device=HOSTILE)
    events = start, diagnosis(step=1, code=HOSTILE, severity="error"), run_end(step=1, reason=HOSTILE)
    html = read(log(tmp_path, *events, run_id=HOSTILE))._repr_html_()
    shown = Shown(html)
    assert shown.tags <= {"table", "tr", "th", "td", "details", "summary"}
    assert "<script>alert('\"&\\x1b[2J" in "".join(shown.row("state"))
    assert not {"\x1b", "\u202e"} & set(html)


def test_a_log_that_cannot_be_read_shows_its_problem(tmp_path):
    """The message of the reader stands in place of a traceback."""
    folder = log(tmp_path, run_start())
    events = read(folder)
    file_of(folder).unlink()
    assert "expected" in Shown(events._repr_html_()).row("log")[0]


def test_standard_input_is_not_read_for_a_notebook(tmp_path):
    """Its lines come once, for the program: the notebook prints the object."""
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records_of([run_start(), step(1, 8.0, 0.1)]))
    script = "from higgs_audio_trainer import read; e = read('-'); print(e._repr_html_(), e, len(list(e)))"
    done = subprocess.run([sys.executable, "-c", script], input=lines, capture_output=True, check=True)
    assert done.stdout == b"None <events of '-'> 2\n"


def test_showing_a_log_loads_no_torch(tmp_path):
    """A notebook that only reads starts as fast as a command."""
    script = (
        "import sys; from higgs_audio_trainer import read\n"
        "read(sys.argv[1])._repr_html_(); print('torch' in sys.modules)"
    )
    folder = log(tmp_path, run_start(), step(1, 8.0, 0.1))
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"


def test_a_logger_shows_what_it_logged(tmp_path):
    """Place, last step, figures and findings, also after the end of the training."""
    logger = PredictionLogger(sinks="jsonl")
    assert logger._repr_html_() is None
    assert repr(logger) == "<PredictionLogger: no log yet>"
    trained(tmp_path, logger, eval_strategy="steps", eval_steps=4, max_steps=4)
    path = tmp_path / "events" / "rank00000-attempt000.jsonl"
    records = log_of(tmp_path)
    steps, (evaluation,) = named(records, "train_step"), named(records, "eval_result")
    shown = Shown(logger._repr_html_())
    assert shown.row("log") == [str(path)]
    assert shown.row("last step") == ["4"]
    assert shown.row("events") == [f"{len(records):,} written"]
    assert shown.row("first")[:2] == ["1", f"{steps[0]['loss']:.3f}"]
    assert shown.row("last")[:2] == ["4", f"{steps[-1]['loss']:.3f}"]
    assert shown.row("last evaluation")[1] == f"{evaluation['loss']:.3f}"
    assert shown.row("last")[4:] == ["n/a", "n/a"]  # no audio
    assert repr(logger) == f"<PredictionLogger: step 4, loss {steps[-1]['loss']:.3f}, in '{path}'>"


@pytest.mark.parametrize("sinks", ["null", "jsonl"])
def test_a_logger_names_its_place_safely(tmp_path, sinks):
    """The file, or the sinks if there is no file."""
    folder = tmp_path / "<b>\x1b[2J"
    logger = PredictionLogger(folder, sinks=sinks)
    trained(folder, logger, max_steps=1)
    html = logger._repr_html_()
    (place,) = Shown(html).row("log")
    assert Shown(html).tags == {"table", "tr", "th", "td"}
    assert "\x1b" not in html + repr(logger)
    assert place == ("null" if sinks == "null" else f"{tmp_path}/<b>\\x1b[2J/events/rank00000-attempt000.jsonl")


def test_a_logger_counts_its_findings(tmp_path):
    """Codes of warnings and errors, with the number of steps."""
    model = make("llama")[0].train()
    logger = PredictionLogger(tmp_path, sinks="jsonl", pretrained=True).attach(model)
    batch = torch.full((2, 64), 5)
    for number in (1, 2):
        with logger.step(number):
            model(input_ids=batch, labels=torch.full_like(batch, -100)).loss.backward()
    logger.close()
    counted = log_of(tmp_path)[-1]["diagnoses"]
    assert counted
    assert Shown(logger._repr_html_()).row("findings") == [
        ", ".join(f"{code} (at {count} steps)" for code, count in counted.items())
    ]
