"""`diagnose` runs the checks over a finished log: its text, its JSON, its annotations, its exit status."""

import json
from dataclasses import replace

import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.diagnoses import diagnoser
from higgs_audio_trainer.diagnoses.finding import Finding
from higgs_audio_trainer.logs.logged_steps import logged_steps
from higgs_audio_trainer.logs.reader import read
from tests.builders import (
    audio_sample,
    checkpoint,
    diagnosis,
    eval_result,
    run_end,
    run_start,
    sink_recovered,
    text_sample,
    token_counts,
    train_step,
)
from tests.test_reader import dump, file_of, records_of

PLACE = "rank00000-attempt000.jsonl"


def due(step):
    """Make the events of a due step, in the order of a run."""
    counts = [token_counts(step=step), token_counts(step=step, codebook=0)]
    return [train_step(step=step), text_sample(step=step), audio_sample(step=step), *counts]


def evaluation(step):
    """Make the events of an evaluation."""
    return [eval_result(step=step), text_sample(step=step, split="eval")]


def write(folder, *events, rank=0, damage=b""):
    """Write the log of a rank."""
    records = [record | {"rank": rank} for record in records_of([run_start(), *events, run_end()])]
    file_of(folder, rank=rank).write_bytes(dump(records) + damage)
    return folder


def diagnose(capsys, *arguments):
    """Run `diagnose`; return its exit code, output and messages."""
    code = main(["diagnose", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def checks(monkeypatch):
    """Put checks in the place of the real ones."""
    return lambda *given: monkeypatch.setattr(diagnoser, "CHECKS", given)


def found(code, severity, message, evidence=None, modality=None, codebook=None):
    """Make a finding."""
    about = {"modality": modality, "codebook": codebook}
    return Finding(code=code, severity=severity, message=message, evidence=evidence or {}, **about)


def no_stop_target(due, _history):
    """Find a fault of codebook 3 at every due step."""
    if due.train is not None:
        yield found("no_stop_target", "error", "No!", {"stops": 0}, "audio", 3)


def plateau(due, _history):
    """Find a fault that becomes worse at step 3."""
    if due.train is not None and due.step > 1:
        yield found("plateau", "error" if due.step == 3 else "warning", f"No progress at step {due.step}.")


def overfit(due, _history):
    """Find a fault at every evaluation."""
    if due.evaluation is not None:
        yield found("overfit", "note", "Evaluation is worse.")


class TestText:
    def test_each_finding_is_said_once(self, tmp_path, capsys, checks):
        """In the order of their steps, as the worst that it was, with how often it was found; then the verdict."""
        checks(no_stop_target, plateau, overfit)
        write(tmp_path, *due(1), *due(2), *evaluation(2), *due(3))
        code, out, err = diagnose(capsys, tmp_path)
        assert (code, err) == (1, "")
        assert out == (
            "error (no_stop_target) at step 1, found at 3 of 3 logged steps and 1 evaluation: No!\n"
            "error (plateau) at step 2, found at 2 of 3 logged steps and 1 evaluation: No progress at step 3.\n"
            "note (overfit) at step 2, found at 1 of 3 logged steps and 1 evaluation: Evaluation is worse.\n"
            "2 errors, 1 note in 3 logged steps and 1 evaluation\n"
        )

    def test_nothing_found(self, tmp_path, capsys, checks):
        """It says so. What the training found itself is not repeated."""
        checks()
        write(tmp_path, *due(1), diagnosis(severity="error"))
        assert diagnose(capsys, tmp_path) == (0, "nothing found in 1 logged step\n", "")

    def test_notes_alone_are_no_fault(self, tmp_path, capsys, checks):
        """The exit status of a healthy run is 0."""
        checks(overfit)
        assert diagnose(capsys, write(tmp_path, *due(1), *evaluation(1)))[0] == 0

    def test_width(self, tmp_path, capsys, checks):
        """Lines are folded as `show` folds them; a width that is none is refused as there."""
        checks(no_stop_target)
        write(tmp_path, *due(1))
        out = diagnose(capsys, tmp_path, "--width", 40)[1]
        assert max(map(len, out.splitlines())) <= 40
        code, _, err = diagnose(capsys, tmp_path, "--width", 3)
        assert (code, err[:50]) == (2, "higgs-audio-trainer: --width: expected columns fro")

    def test_a_closed_pipe(self, tmp_path, monkeypatch, checks):
        """Who closed it has read enough; the exit status is that of what was found."""
        checks(no_stop_target)
        write(tmp_path, *due(1))

        class Closed:
            encoding = "utf-8"

            def isatty(self):
                return False

            def fileno(self):
                raise OSError

            def write(self, _text):
                raise BrokenPipeError

            def flush(self):
                pass

        monkeypatch.setattr("sys.stdout", Closed())
        assert main(["diagnose", str(tmp_path)]) == 1


class TestOtherFormats:
    def test_json(self, tmp_path, capsys, checks):
        """A list with the fields of each diagnosis, how often it was found, first and last."""
        checks(no_stop_target)
        write(tmp_path, *due(1), *due(2))
        code, out, _ = diagnose(capsys, tmp_path, "--format", "json")
        assert code == 1
        assert json.loads(out) == [
            {
                "step": 1,
                "code": "no_stop_target",
                "severity": "error",
                "message": "No!",
                "evidence": {"stops": 0},
                "modality": "audio",
                "codebook": 3,
                "repeats": 1,
                "times": 2,
                "first_step": 1,
                "last_step": 2,
            }
        ]

    def test_json_of_a_clean_log(self, tmp_path, capsys, checks):
        """An empty list."""
        checks()
        assert diagnose(capsys, write(tmp_path, *due(1)), "--format", "json")[:2] == (0, "[]\n")

    def test_json_has_no_nan(self, tmp_path, capsys, checks):
        """A figure that is no number is null."""
        checks(lambda due, _: [found("non_finite", "error", "NaN.", {"loss": [float("nan"), 1.0]})])
        out = diagnose(capsys, write(tmp_path, *due(1)), "--format", "json")[1]
        assert json.loads(out, parse_constant=pytest.fail)[0]["evidence"] == {"loss": [None, 1.0]}

    def test_github(self, tmp_path, capsys, checks):
        """Annotations, the worst first, and the text, of which no line is a command."""
        told = found("too_good", "warning", "::error::100% right\n::stop")
        checks(lambda due, _: [told], no_stop_target, overfit)
        write(tmp_path, *due(1), *evaluation(1))
        lines = diagnose(capsys, tmp_path, "--format", "github")[1].splitlines()
        assert lines[:3] == [
            "::error title=no_stop_target%2C codebook 3 at step 1::No!",
            "::warning title=too_good at step 1::::error::100%25 right\\n::stop",
            "::notice title=overfit at step 1::Evaluation is worse.",
        ]
        assert not any(line.lstrip().startswith("::") for line in lines[3:])
        assert lines[-1] == "1 error, 1 warning, 1 note in 1 logged step and 1 evaluation"


class TestLogs:
    def test_no_log(self, tmp_path, capsys):
        """A folder without one is refused."""
        assert diagnose(capsys, tmp_path)[0] == 2

    def test_no_training(self, tmp_path, capsys):
        """So is a log in which nothing was logged."""
        code, out, err = diagnose(capsys, write(tmp_path))
        assert (code, out) == (2, "")
        assert "expected the log of a training, got no train_step and no eval_result" in err

    def test_several_logs(self, tmp_path, capsys):
        """One run at a time."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        paths = [write(tmp_path / name, *due(1)) for name in "ab"]
        code, _, err = diagnose(capsys, *paths)
        assert (code, "expected the log of one run, got 2" in err) == (2, True)

    def test_damaged_lines(self, tmp_path, capsys, checks):
        """They are told on stderr, and the rest is checked."""
        checks()
        code, out, err = diagnose(capsys, write(tmp_path, *due(1), damage=b'{"event": "train'))
        assert (code, out) == (0, "nothing found in 1 logged step\n")
        assert PLACE in err

    def test_older_logs(self, tmp_path, capsys, checks):
        """That they have no counts is said: some checks see nothing then."""
        checks()
        _, _, err = diagnose(capsys, write(tmp_path, train_step(), text_sample()))
        assert "the log has no token_counts" in err


class TestDues:
    def test_a_run(self, tmp_path):
        """Each step with its counts and samples, then its evaluation; other events are in nobody's way."""
        events = [*due(1), checkpoint(step=1), *due(2)[:2], sink_recovered(), *due(2)[2:], *evaluation(2)]
        start, *parts = logged_steps(read(write(tmp_path, *events)))
        assert start.num_codebooks == 8
        assert [(part.step, part.train is None, len(part.counts), len(part.samples)) for part in parts] == [
            (1, False, 2, 2),
            (2, False, 2, 2),
            (2, True, 0, 1),
        ]
        assert parts[2].evaluation.num_samples == 3

    def test_ranks(self, tmp_path):
        """Of each step, the lowest rank that logged it counts."""
        write(tmp_path, *due(1))
        write(tmp_path, *due(1), *due(2), rank=1)
        parts = list(logged_steps(read(tmp_path)))
        assert [(part.step, part.train.rank, len(part.samples)) for part in parts[1:]] == [(1, 0, 2), (2, 1, 2)]

    def test_lists_that_do_not_belong_together(self, tmp_path):
        """An event that no check can look at is passed over."""
        whole = text_sample(step=1)
        uneven = replace(whole, first=replace(whole.first, labels=(1,)))
        ranked = replace(whole, last=replace(whole.last, label_ranks=(1,)))
        events = [train_step(step=1), uneven, ranked, whole, token_counts(step=1, label_matches=())]
        _, part = logged_steps(read(write(tmp_path, *events)))
        assert (len(part.samples), part.counts) == (1, ())
