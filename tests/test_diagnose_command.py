"""`diagnose` runs the checks over a finished log: text, JSON, annotations, exit status."""

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


def logged(step):
    """Return the events of a logged step, in the order of a run."""
    counts = [token_counts(step=step), token_counts(step=step, codebook=0)]
    return [train_step(step=step), text_sample(step=step), audio_sample(step=step), *counts]


def evaluation(step):
    """Return the events of an evaluation."""
    return [eval_result(step=step), text_sample(step=step, split="eval")]


def write(folder, *events, rank=0, damage=b""):
    """Write the log of a rank."""
    records = [record | {"rank": rank} for record in records_of([run_start(), *events, run_end()])]
    file_of(folder, rank=rank).write_bytes(dump(records) + damage)
    return folder


def diagnose(capsys, *arguments):
    """Run `diagnose` and return the exit code, the output and the messages."""
    code = main(["diagnose", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def checks(monkeypatch):
    """Replace the real checks."""
    return lambda *given: monkeypatch.setattr(diagnoser, "CHECKS", given)


def found(code, severity, message, evidence=None, modality=None, codebook=None):
    """Return a finding."""
    about = {"modality": modality, "codebook": codebook}
    return Finding(code=code, severity=severity, message=message, evidence=evidence or {}, **about)


def no_stop_target(logged, _history):
    """Find a problem of codebook 3 at every logged step."""
    if logged.train is not None:
        yield found("no_stop_target", "error", "No!", {"stops": 0}, "audio", 3)


def plateau(logged, _history):
    """Find a problem that becomes an error at step 3."""
    if logged.train is not None and logged.step > 1:
        yield found("plateau", "error" if logged.step == 3 else "warning", f"No progress at step {logged.step}.")


def overfit(logged, _history):
    """Find a problem at every evaluation."""
    if logged.evaluation is not None:
        yield found("overfit", "note", "Evaluation is worse.")


class TestText:
    def test_each_finding_is_printed_once(self, tmp_path, capsys, checks):
        """Each finding is printed once, by first step, with the worst severity and the count. A summary follows."""
        checks(no_stop_target, plateau, overfit)
        write(tmp_path, *logged(1), *logged(2), *evaluation(2), *logged(3))
        code, out, err = diagnose(capsys, tmp_path)
        assert (code, err) == (1, "")
        assert out == (
            "error (no_stop_target) at step 1, found at 3 of 3 logged steps and 1 evaluation: No!\n"
            "error (plateau) at step 2, found at 2 of 3 logged steps and 1 evaluation: No progress at step 3.\n"
            "note (overfit) at step 2, found at 1 of 3 logged steps and 1 evaluation: Evaluation is worse.\n"
            "2 errors, 1 note in 3 logged steps and 1 evaluation\n"
        )

    def test_nothing_found(self, tmp_path, capsys, checks):
        """A clean log prints a summary. Diagnoses in the log are ignored."""
        checks()
        write(tmp_path, *logged(1), diagnosis(severity="error"))
        assert diagnose(capsys, tmp_path) == (0, "nothing found in 1 logged step\n", "")

    def test_notes_alone_are_no_fault(self, tmp_path, capsys, checks):
        """Notes alone keep exit status 0."""
        checks(overfit)
        assert diagnose(capsys, write(tmp_path, *logged(1), *evaluation(1)))[0] == 0

    def test_width(self, tmp_path, capsys, checks):
        """Lines are wrapped as in `show`. A bad width is an error."""
        checks(no_stop_target)
        write(tmp_path, *logged(1))
        out = diagnose(capsys, tmp_path, "--width", 40)[1]
        assert max(map(len, out.splitlines())) <= 40
        code, _, err = diagnose(capsys, tmp_path, "--width", 3)
        assert (code, err[:50]) == (2, "higgs-audio-trainer: --width: expected columns fro")

    def test_a_closed_pipe(self, tmp_path, monkeypatch, checks):
        """A closed pipe keeps the exit status of the findings."""
        checks(no_stop_target)
        write(tmp_path, *logged(1))

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
        """The JSON list has the fields, the count, the first step and the last step of each diagnosis."""
        checks(no_stop_target)
        write(tmp_path, *logged(1), *logged(2))
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
        """The JSON of a clean log is an empty list."""
        checks()
        assert diagnose(capsys, write(tmp_path, *logged(1)), "--format", "json")[:2] == (0, "[]\n")

    def test_json_has_no_nan(self, tmp_path, capsys, checks):
        """NaN becomes null."""
        checks(lambda logged, _: [found("non_finite", "error", "NaN.", {"loss": [float("nan"), 1.0]})])
        out = diagnose(capsys, write(tmp_path, *logged(1)), "--format", "json")[1]
        assert json.loads(out, parse_constant=pytest.fail)[0]["evidence"] == {"loss": [None, 1.0]}

    def test_github(self, tmp_path, capsys, checks):
        """Annotations come first, worst first. The text after them contains no workflow command."""
        told = found("too_good", "warning", "::error::100% right\n::stop")
        checks(lambda logged, _: [told], no_stop_target, overfit)
        write(tmp_path, *logged(1), *evaluation(1))
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
        """A folder without a log is an error."""
        assert diagnose(capsys, tmp_path)[0] == 2

    def test_no_training(self, tmp_path, capsys):
        """A log without logged steps is an error."""
        code, out, err = diagnose(capsys, write(tmp_path))
        assert (code, out) == (2, "")
        assert "expected the log of a training, got no train_step and no eval_result" in err

    def test_several_logs(self, tmp_path, capsys):
        """Two logs are an error."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        paths = [write(tmp_path / name, *logged(1)) for name in "ab"]
        code, _, err = diagnose(capsys, *paths)
        assert (code, "expected the log of one run, got 2" in err) == (2, True)

    def test_damaged_lines(self, tmp_path, capsys, checks):
        """Damaged lines are reported on stderr, and all other lines are checked."""
        checks()
        code, out, err = diagnose(capsys, write(tmp_path, *logged(1), damage=b'{"event": "train'))
        assert (code, out) == (0, "nothing found in 1 logged step\n")
        assert PLACE in err

    def test_older_logs(self, tmp_path, capsys, checks):
        """A log without token counts is reported, because checks are skipped."""
        checks()
        _, _, err = diagnose(capsys, write(tmp_path, train_step(), text_sample()))
        assert "the log has no token_counts" in err


class TestLoggedSteps:
    def test_a_run(self, tmp_path):
        """Each step comes with the step's counts and samples, then the evaluation. Other events are ignored."""
        events = [*logged(1), checkpoint(step=1), *logged(2)[:2], sink_recovered(), *logged(2)[2:], *evaluation(2)]
        start, *parts = logged_steps(read(write(tmp_path, *events)))
        assert start.num_codebooks == 8
        assert [(part.step, part.train is None, len(part.counts), len(part.samples)) for part in parts] == [
            (1, False, 2, 2),
            (2, False, 2, 2),
            (2, True, 0, 1),
        ]
        assert parts[2].evaluation.num_samples == 3

    def test_ranks(self, tmp_path):
        """The lowest rank with a record of a step provides the step."""
        write(tmp_path, *logged(1))
        write(tmp_path, *logged(1), *logged(2), rank=1)
        parts = list(logged_steps(read(tmp_path)))
        assert [(part.step, part.train.rank, len(part.samples)) for part in parts[1:]] == [(1, 0, 2), (2, 1, 2)]

    def test_lists_that_do_not_belong_together(self, tmp_path):
        """Events with lists of unequal length are ignored."""
        whole = text_sample(step=1)
        uneven = replace(whole, first=replace(whole.first, labels=(1,)))
        ranked = replace(whole, last=replace(whole.last, label_ranks=(1,)))
        events = [train_step(step=1), uneven, ranked, whole, token_counts(step=1, label_matches=())]
        _, part = logged_steps(read(write(tmp_path, *events)))
        assert (len(part.samples), part.counts) == (1, ())
