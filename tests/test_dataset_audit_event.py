"""The events `dataset_audit` and `prepare_progress` on the console, in files, comparisons, summaries and reports."""

import json
import os
from dataclasses import replace

import pytest

from higgs_audio_trainer import read
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.cli.audit_report import audit_text, write_audit
from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import FoundSample, to_mapping
from higgs_audio_trainer.logs.diff.compare import diff
from higgs_audio_trainer.logs.diff.golden import write_golden
from higgs_audio_trainer.logs.validation.validate import validate
from sinks import render
from tests.builders import (
    dataset_audit,
    dataset_finding,
    prepare_progress,
    record_of,
    run_end,
    run_start,
    split_statistics,
    train_step,
)
from tests.report_pages import write_events

START = run_start(num_codebooks=2)


def log_of(tmp_path, *events, name="log.jsonl"):
    """Write a log."""
    return write_events(tmp_path / name, events)


class TestConsole:
    def test_audit(self):
        """One line of statistics, then one line for each finding, errors first, with the first three samples."""
        samples = tuple(FoundSample(where=f"t.jsonl:{n}", id=f"a-{n}", detail="") for n in range(1, 11))
        findings = (dataset_finding(), dataset_finding(code="leak", severity="error", count=1_200, samples=samples))
        train = split_statistics(samples=12_345, audio_hours=3.25)
        record = record_of(dataset_audit(splits={"train": train}, findings=findings))
        assert render(record).split("\n") == [
            "data: 1 error, 1 warning  train 12,345 samples, 3.2 h, 2 speakers",
            (
                "  error (leak): 1,200 samples: the recording is silent. Remove the sample: "
                "t.jsonl:1 (a-1); t.jsonl:2 (a-2); t.jsonl:3 (a-3); and 1,197 more"
            ),
            (
                "  warning (silent): 1 sample: the recording is silent. Remove the sample: "
                "data/train.jsonl:3 (en-3), -71 dBFS"
            ),
        ]

    def test_a_severity_of_a_newer_version(self):
        """An unknown severity comes last, under its own name."""
        record = record_of(dataset_audit(findings=(dataset_finding(), dataset_finding())))
        record["findings"][0]["severity"] = "hint"
        shown = render(record).split("\n")
        assert shown[0].startswith("data: 1 warning, 1 hint  ")
        assert [line.split(":")[0] for line in shown[1:]] == ["  warning (silent)", "  hint (silent)"]

    def test_no_findings(self):
        """Sound data is one line."""
        audit = dataset_audit(findings=())
        assert render(record_of(audit)) == (
            "data: no findings  train 4 samples, 0.1 min, 2 speakers  eval 1 sample, 0.1 min"
        )
        assert audit_text(audit) == render(record_of(audit))

    def test_progress(self):
        """The progress is one line; what is unknown is left out."""
        assert render(record_of(prepare_progress())) == (
            "encoding: 1,500 of 6,000 clips  3.25 h of audio  64.0 times real time  9:09 left  2 faults  4 workers"
        )
        first = prepare_progress(clips_done=0, audio_hours_done=0.0, times_real_time=None, seconds_left=None, workers=1)
        assert render(record_of(first)) == "encoding: 0 of 6,000 clips  0.00 h of audio  2 faults  1 worker"

    def test_hostile_names_are_escaped(self):
        """No control character of a manifest reaches the terminal."""
        sample = FoundSample(where="t\x1b[2J.jsonl:1", id="a\x07", detail="\x9b31m")
        text = render(record_of(dataset_audit(findings=(dataset_finding(samples=(sample,)),))))
        assert not {"\x1b", "\x07", "\x9b"} & set(text)


class TestFile:
    def test_payload(self, tmp_path):
        """The file holds the payload of the event, in a new folder as well, and replaces an older file."""
        path = tmp_path / "new" / "audit.json"
        for audit in (dataset_audit(), dataset_audit(findings=())):
            write_audit(audit, path)
            assert json.loads(path.read_bytes()) == json.loads(json.dumps(to_mapping(audit)))
        assert [item.name for item in path.parent.iterdir()] == ["audit.json"]

    def test_unwritable(self, tmp_path):
        """A folder, or a file in place of a folder, is an error with the system's reason."""
        with pytest.raises(UserError, match=r"^--audit: .*: Is a directory. Name another file.$"):
            write_audit(dataset_audit(), tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"^--audit: .*/file: Not a directory"):
            write_audit(dataset_audit(), tmp_path / "file" / "audit.json")

    def test_pipe(self, tmp_path):
        """A pipe is written to, and stays a pipe."""
        read_end, write_end = os.pipe()
        from pathlib import Path

        write_audit(dataset_audit(findings=()), Path(f"/dev/fd/{write_end}"))
        os.close(write_end)
        with os.fdopen(read_end, "rb") as file:
            assert json.loads(file.read())["findings"] == []


class TestLogs:
    def test_read_back(self, tmp_path):
        """The reader returns the typed events with their parts."""
        audit, progress = read(log_of(tmp_path, dataset_audit(), prepare_progress()))
        assert to_mapping(audit.splits["train"]) == to_mapping(split_statistics())
        assert audit.findings == dataset_audit().findings
        assert progress.clips_total == 6_000

    def test_preparation_without_a_training_is_valid(self, tmp_path):
        """A log of a preparation needs neither a start nor an end of a training; a training after it does."""
        assert (
            list(validate(log_of(tmp_path, prepare_progress(clips_done=0), prepare_progress(), dataset_audit()))) == []
        )
        assert (
            list(
                validate(log_of(tmp_path, prepare_progress(), START, train_step(), run_end(step=20, events_written=3)))
            )
            == []
        )
        assert [str(item.kind) for item in validate(log_of(tmp_path, prepare_progress(), train_step()))] == [
            "run_start",
            "run_end",
        ]
        assert [str(item.kind) for item in validate(log_of(tmp_path, dataset_audit(), START, train_step()))] == [
            "run_end"
        ]

    @pytest.mark.parametrize(
        ("event", "place"),
        [
            (prepare_progress(clips_done=7_000), "$.clips_done"),
            (dataset_audit(findings=(dataset_finding(count=3),)), "$.findings[0].count"),
            (
                dataset_audit(findings=(dataset_finding(samples=dataset_finding().samples * 2),)),
                "$.findings[0].samples",
            ),
        ],
    )
    def test_contradictions(self, tmp_path, event, place):
        """Counts that contradict each other are found."""
        assert [item.path for item in validate(log_of(tmp_path, event))] == [place]

    def test_diff_leaves_out_progress_and_places(self, tmp_path):
        """Progress differs from run to run and so do folders; findings do not."""
        moved = replace(dataset_finding().samples[0], where="/elsewhere/train.jsonl:3")
        ours = log_of(tmp_path, START, prepare_progress(), dataset_audit(findings=(dataset_finding(),)), train_step())
        same = dataset_audit(findings=(dataset_finding(samples=(moved,)),))
        theirs = log_of(tmp_path, START, same, train_step(), name="b.jsonl")
        assert diff(ours, theirs).same
        other = dataset_audit(findings=(dataset_finding(count=2, by_split={"train": 2}),))
        found = diff(ours, log_of(tmp_path, START, other, train_step(), name="c.jsonl"))
        assert found.first.field == "findings[0].count"

    def test_golden(self, tmp_path):
        """A golden file has the audit without places, is valid, and equals its log."""
        log = log_of(
            tmp_path, START, prepare_progress(), dataset_audit(), train_step(), run_end(step=20, events_written=4)
        )
        golden = tmp_path / "golden.jsonl"
        write_golden(log, golden)
        assert b"prepare_progress" not in golden.read_bytes()
        assert b"train.jsonl:3" not in golden.read_bytes()
        assert diff(golden, log).same
        assert list(validate(golden)) == []
        (audit,) = [event for event in read(golden) if event.event == "dataset_audit"]
        assert (audit.findings[0].samples[0].where, audit.findings[0].samples[0].id) == (None, "en-3")
        assert "en-3, -71 dBFS" in render(
            next(json.loads(line) for line in golden.open("rb") if b"dataset_audit" in line)
        )

    def test_summary(self, tmp_path, capsys):
        """The summary has the hours and the kinds of errors and warnings; of a preparation, how far it is."""
        note = dataset_finding(code="same_text", severity="note")
        audit = dataset_audit(findings=(dataset_finding(code="leak", severity="error", count=7), note))
        assert main(["show", "--summary", str(log_of(tmp_path, START, audit, train_step()))]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "audio    train 0.00 h of 2 speakers in 4 samples; eval 0.00 h in 1 sample" in lines
        assert "problems error: leak in the data, 7 times" in lines
        assert main(["show", "--summary", str(log_of(tmp_path, prepare_progress()))]) == 0
        assert "prepare  encoding: 1,500 of 6,000 clips, 549 s left" in capsys.readouterr().out.splitlines()


class TestReport:
    def page(self, tmp_path, *logs):
        path = tmp_path / "report.html"
        assert main(["report", *map(str, logs), "-o", str(path)]) == 0
        return path.read_text()

    def test_section(self, tmp_path):
        """The page has the figures, a histogram with its numbers, and each finding with its samples."""
        page = self.page(tmp_path, log_of(tmp_path, START, dataset_audit(), train_step()))
        section = page[page.index('<section id="data"') :].partition("</section>")[0]
        for text in (
            "Lengths of train (s)",
            "<dt>hours of audio</dt><dd>0.0025</dd>",
            "Latin: 3, Arabic: 1",
            "24000: 3, 8000: 1",
            "error: leak, 1 sample",
            "the recording is silent. Remove the sample.",
            '<code>data/train.jsonl:3</code> <bdi dir="auto">en-3</bdi>: <bdi dir="auto">-71 dBFS</bdi>',
            '<th scope="row">1 to 2</th><td>2</td>',
        ):
            assert text in section

    def test_without_an_audit(self, tmp_path):
        """A log without an audit has no such section."""
        assert 'id="data"' not in self.page(tmp_path, log_of(tmp_path, START, train_step()))

    def test_no_findings(self, tmp_path):
        """Sound data is said to be so, also without lengths; two logs stand side by side."""
        empty = split_statistics(
            length_bin_s=None, length_counts=(), audio_hours=None, speakers=None, sampling_rates={}
        )
        audit = dataset_audit(splits={"train": empty}, findings=())
        ours = log_of(tmp_path, START, audit, train_step())
        page = self.page(tmp_path, ours, log_of(tmp_path, START, dataset_audit(), train_step(), name="b.jsonl"))
        assert "A: The audit found no faults." in page
        assert "B: Lengths of train (s)" in page
        assert "A: Lengths" not in page

    def test_hostile(self, tmp_path):
        """Names from a manifest are escaped, and a damaged log with endless lists gives a short page."""
        sample = FoundSample(where="<script>alert(1)</script>:1", id="<b>", detail="</li>")
        finding = dataset_finding(samples=(sample,) * 500, code="<i>", message="<u>")
        train = split_statistics(length_counts=(1,) * 5_000, scripts={f"s{n}": n for n in range(5_000)})
        audit = dataset_audit(splits={f"<s{n}>": train for n in range(50)}, findings=(finding,) * 500)
        page = self.page(tmp_path, log_of(tmp_path, START, audit, train_step()))
        assert not any(text in page for text in ("<script>", "<s0>", "<u>"))
        assert len(page) < 600_000
