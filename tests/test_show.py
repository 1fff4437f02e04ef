"""`show` prints selected events like the console sink and handles any input."""

import gzip
import io
import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.cli.show import parser
from higgs_audio_trainer.config import CONSOLE_DETAILS
from higgs_audio_trainer.events import VOLATILE_FIELDS
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import JsonlSink
from sinks.console import ConsoleSink
from sinks.rendering.renderers import DETAILS, RENDERERS
from sinks.terminal.screen import Screen
from tests.builders import (
    RUN_ID,
    all_events,
    audio_sample,
    checkpoint,
    diagnosis,
    fixed_clock,
    random_events,
    record_of,
    run_end,
    run_start,
    text_sample,
    train_step,
    window,
)
from tests.test_reader import attempt_of, dump, file_of, records_of
from tests.test_render import golden

ARABIC = text_sample(
    sample_id="عينة",
    first=window([1, 2], [1, 3], predicted_text="مرحبا بالعالم", label_text="مرحبا بكم"),
    last=window([5], predicted_text="\x1b[2J", label_text="é"),
)


def show(capsys, *arguments):
    """Run `show` and return its exit code, output and messages."""
    code = main(["show", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def log(tmp_path):
    """Write a log with every kind of event."""
    file_of(tmp_path).write_bytes(dump(records_of(all_events())))
    return tmp_path


class TestAsTheConsole:
    @pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "utf-16"])
    @pytest.mark.parametrize("color", [False, True])
    def test_byte_for_byte(self, tmp_path, monkeypatch, encoding, color):
        """`show` prints the bytes that the console sink wrote during the training."""
        (tmp_path / "events").mkdir()
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        screen = Screen(out, None)
        console = ConsoleSink(screen, color=color, encoding=encoding, close_screen=True)
        jsonl = JsonlSink(file_of(tmp_path / "events"))
        emit = Pipeline([("console", console), ("jsonl", jsonl)], run_id=RUN_ID, clock=fixed_clock)
        for event in [*all_events(), ARABIC, train_step(loss=float("nan")), audio_sample(first=window(range(30_000)))]:
            emit(event)
        console.close()
        jsonl.close()
        monkeypatch.setenv("FORCE_COLOR" if color else "NO_COLOR", "1")
        monkeypatch.delenv("NO_COLOR" if color else "FORCE_COLOR", raising=False)
        shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", shown)
        assert main(["show", str(file_of(tmp_path / "events"))]) == 0
        out.flush()
        assert shown.buffer.getvalue() == out.buffer.getvalue()

    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(event=random_events())
    def test_any_event(self, tmp_path, capsys, event):
        """`show` prints any event like the console sink and emits no control characters."""
        record = record_of(event)
        file_of(tmp_path).write_bytes(dump([record]))
        out = io.StringIO()
        console = ConsoleSink(Screen(out, None), color=False, encoding="utf-8", close_screen=True)
        console(record)
        console.close()
        assert show(capsys, tmp_path)[:2] == (0, out.getvalue())


class TestGolden:
    def test_every_event(self, log, capsys):
        """All events of a log, printed at 80 columns."""
        code, out, err = show(capsys, log, "--width", 80)
        assert (code, err) == (0, "")
        assert (
            out
            == golden("""
            run r: 1,234 training samples, 0 for evaluation  8 codebooks
              5,678,901 trainable parameters  1 process on cpu  seed 42
            step 20  epoch 5.00  0.21 s  lr 1.0e-04  grad 1.2
              loss 4.132  text 0.831  audio 3.301
              correct  text 81.2 %  audio 33.1 %  codebooks ▄▃ 25 to 41 %
            Sample 1 Prediction vs Label Comparison:  en-1, 10 of 12 correct
              First 5 - Predictions: [ 1234,  5678,  9012,  3456, *7890]
              First 5 - Labels:      [ 1234,  5678,  9012,  3456,  7891]
              Last 5  - Predictions: [ 2345,  6789,   123,  4567, *8901]
              Last 5  - Labels:      [ 2345,  6789,   123,  4567,  8902]
            Audio Prediction vs Label Comparison (Codebook 0):  en-1, 10 of 12 correct
              First 5 - Predictions: [ 1234,  5678,  9012,  3456, *7890]
              First 5 - Labels:      [ 1234,  5678,  9012,  3456,  7891]
              Last 5  - Predictions: [ 2345,  6789,   123,  4567, *8901]
              Last 5  - Labels:      [ 2345,  6789,   123,  4567,  8902]
              Logits shape: torch.Size([123, 8, 1026])
              Labels shape: torch.Size([8, 123])
            evaluation at step 20  3 samples
              loss 4.500  text 1.000  audio 3.500
              correct  text 75.0 %  audio 37.5 %  codebooks ▅▃ 25 to 50 %
            Generated p-1: 3.2 s of 3.4 s, stopped by itself, 12 % silent, 50 % as recorded
              Codebook 0:
              First 5 - Predictions: [ 12, 345, 678, *90,  12]
              First 5 - Labels:      [ 12, 345, 678,  91,  12]
              Last 5  - Predictions: [  1,   2,   3,   4,  *5]
              Last 5  - Labels:      [  1,   2,   3,   4,   6]
              Codebook 1:
              First 5 - Predictions: [ 5,  6,  7,  8, *9]
              First 5 - Labels:      [ 5,  6,  7,  8, 10]
              Last 5  - Predictions: [11, 12, 13, 14, 15]
              Last 5  - Labels:      [11, 12, 13, 14, 15]
            saved checkpoint-20
            warning (no_stop_label): No stop token is supervised.
            encoding: 1,500 of 6,000 clips  3.25 h of audio  64.0 times real time  9:09 left
              2 faults  4 workers
            data: 1 error, 1 warning  train 4 samples, 0.1 min, 2 speakers
              eval 1 sample, 0.1 min
              error (leak): 1 sample: the recording is silent. Remove the sample:
                data/train.jsonl:3 (en-3), -71 dBFS
              warning (silent): 1 sample: the recording is silent. Remove the sample:
                data/train.jsonl:3 (en-3), -71 dBFS
            sink jsonl works again; 3 events lost, seq 4 to 6
            sink jsonl stops: its files reached max_total_bytes, 1,000,000 bytes; later
              events are not written
            run ended: completed at step 30  1,234 events written, 0 lost
              logging took 57 ms
        """).replace("\n\n", "\n")
            + "\n"
        )

    def test_arabic(self, tmp_path, capsys):
        """Arabic text is complete, isolated and wrapped. Control characters in data are escaped."""
        file_of(tmp_path).write_bytes(dump(records_of([ARABIC])))
        assert (
            show(capsys, tmp_path, "--width", 48)[1]
            == golden(r"""
            Sample 1 Prediction vs Label Comparison:
              <عينة> at step 20, 10 of 12 correct
              First 2 - Predictions: [ 1, *3]
                "<مرحبا بالعالم>"
              First 2 - Labels:      [ 1,  2]  "<مرحبا بكم>"
              Last 1  - Predictions: [ 5]  "\x1b[2J"
              Last 1  - Labels:      [ 5]  "é"
        """)
            .replace("<", "\u2068")
            .replace(">", "\u2069")
            + "\n"
        )

    def test_a_golden(self, tmp_path, capsys):
        """A log without volatile fields is printed in the same format, without these fields."""
        events = [run_start(resumed_from_step=3), train_step(), text_sample(), checkpoint(), run_end()]
        kept = [{k: v for k, v in record.items() if k not in VOLATILE_FIELDS} for record in records_of(events)]
        (tmp_path / "golden.jsonl").write_bytes(dump(kept))
        lines = show(capsys, tmp_path / "golden.jsonl")[1].splitlines()
        assert [line for line in lines if not line.startswith(" ")] == [
            (
                "run: 1,234 training samples, 0 for evaluation  8 codebooks  5,678,901 trainable parameters  "
                "1 process on cpu  seed 42"
            ),
            "step 20  epoch 5.00  lr 1.0e-04  grad 1.2",
            "Sample 1 Prediction vs Label Comparison:  en-1, 10 of 12 correct",
            "saved checkpoint-20",
            "run ended: completed at step 30",
        ]


class TestRendererFailures:
    def test_report(self, log, capsys, monkeypatch):
        """A renderer that raises is reported on stderr, once for an event; the exit code stays 0."""
        monkeypatch.setitem(RENDERERS, "checkpoint", lambda record, text_format: {}[record["path"]])
        code, out, err = show(capsys, log, "--event", "checkpoint")
        assert code == 0
        assert out.startswith("event=checkpoint  v=1")
        assert err == (
            "cannot render checkpoint (KeyError: 'checkpoint-20'), so such records are shown field by field\n"
        )


class TestFlags:
    @pytest.mark.parametrize(
        ("arguments", "events"),
        [
            (["--event", "checkpoint,diagnosis"], ["checkpoint", "diagnosis"]),
            (["--step", "25:"], ["run_end"]),
            (["--modality", "text"], ["prediction_sample", "token_counts"]),
            (["--codebook", "0,5", "--step", "20"], ["prediction_sample", "token_counts"]),
            (["--sample-id", "x", "--sample_id", "0123456789abcdef"], ["prediction_sample"] * 2),
            (["--mismatches-only", "--split", "train", "--rank", "0"], ["prediction_sample"] * 2),
        ],
    )
    def test_choose(self, log, capsys, arguments, events):
        """Flags select events. --raw prints the unchanged lines."""
        code, out, err = show(capsys, log, "--raw", *arguments)
        assert (code, err) == (0, "")
        lines = file_of(log).read_text().splitlines(keepends=True)
        assert [json.loads(line)["event"] for line in out.splitlines()] == events
        assert all(line in lines for line in out.splitlines(keepends=True))

    def test_what_is_for_files(self, log, capsys):
        """Token counts are printed by name or with --raw, and hidden otherwise, like on the console."""
        assert "token counts" not in show(capsys, log)[1]
        assert "token counts" not in show(capsys, log, "--codebook", 0)[1]
        assert "token_counts" in show(capsys, log, "--raw")[1]
        counts, audio = show(capsys, log, "--event", "token_counts")[1].splitlines()
        assert counts.startswith("token counts of step 20, text: 13 of 16 correct  ")
        assert audio.startswith("token counts of step 20, audio codebook 0: 13 of 16 correct  ")

    def test_raw_is_verbatim(self, tmp_path, capsysbinary):
        """--raw keeps every byte: escapes, blanks, key order, unknown fields. A missing newline is added."""
        lines = [b'{ "v": 9, "event":"new", "x": "\\u001b \xd9\x85"}\n', b'{"event": "newer"}']
        (tmp_path / "log.jsonl").write_bytes(b"".join(lines))
        assert main(["show", "--raw", str(tmp_path / "log.jsonl")]) == 0
        assert capsysbinary.readouterr().out == b"".join(lines) + b"\n"

    def test_details_are_those_of_the_console(self):
        [console] = [action for action in parser("show")._actions if action.dest == "console"]
        assert list(console.choices) == list(CONSOLE_DETAILS) == list(DETAILS)

    def test_detail(self, log, capsys):
        """`--console line` is a line a step, and `--log_samples` leaves out samples."""
        line = show(capsys, log, "--console", "line", "--event", "train_step,prediction_sample")[1]
        assert line.splitlines() == [
            "step 20  loss 4.132  text 0.831 81.2 %  audio 3.301 33.1 %  lr 1.0e-04  grad 1.2  0.21 s  epoch 5.00"
        ]
        compact = show(capsys, log, "--console", "compact", "--event", "prediction_sample")[1]
        assert [text.split("  ")[1] for text in compact.splitlines()] == ["text", "codebook 0"]
        assert "Comparison" in show(capsys, log, "--log_samples", 1)[1]
        assert "Comparison" not in show(capsys, log, "--log_samples", 0)[1]

    def test_a_filter_changes_no_figure(self, tmp_path, capsys):
        """Events that the filters hide count for the changes and for the trend of those that are shown."""
        steps = [train_step(step=step, loss=loss, audio_loss=loss) for step, loss in ((10, 6.95), (20, 6.9))]
        file_of(tmp_path).write_bytes(dump(records_of([run_start(total_steps=60), audio_sample(), *steps])))
        shown = show(capsys, tmp_path, "--step", "20", "--event", "train_step")[1].splitlines()
        assert shown[0].startswith("step 20/60  ")
        assert shown[1] == "  loss 6.900 (-0.050)  text 0.831 (0.000)  audio 6.900 (-0.050)"
        assert shown[2] == "  at chance: guessing gives ln V = 6.93"

    def test_nothing_matches(self, log, capsys):
        """An empty result is reported on stderr with exit status 0."""
        assert show(capsys, log, "--step", "5") == (0, "", "no event matches (15 read)\n")

    def test_a_name_that_may_be_a_slip(self, log, capsys):
        """An unknown event name is accepted, with a suggestion on stderr."""
        assert show(capsys, log, "--event", "train_stp") == (
            0,
            "",
            "--event: this version knows no event train_stp. Did you mean train_step?\nno event matches (15 read)\n",
        )

    def test_attempts(self, tmp_path, capsys):
        """A repeated step is printed once, and with --all-attempts in every version."""
        for attempt, events in enumerate([attempt_of(), attempt_of(resumed=4)]):
            file_of(tmp_path, attempt=attempt).write_bytes(dump(records_of(events, attempt=attempt)))
        for flags, count in (([], 1), (["--all-attempts"], 2)):
            out = show(capsys, tmp_path, "--event", "train_step", "--step", "6", *flags)[1]
            assert out.count("step 6 ") == count

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--width", "19"], "--width: expected columns from 20 to 9,999, got '19'"),
            (["--width", "x"], "--width: expected columns from 20 to 9,999, got 'x'"),
            (["--step", "2:1"], "--step: expected the first step before the last, got '2:1'"),
            (["--rank", "x"], "--rank: expected integers of at least 0, as in 0,3, got 'x'"),
            (["--modality", "video"], "--modality: expected text or audio, got 'video'"),
            (["--split", "x\x1b"], "--split: expected train or eval or probe, got 'x\\x1b'"),
            (["--summary", "--raw"], "--summary: expected no --raw. Remove one of the two flags"),
            (
                ["--summary", "--step", "5", "--sample-id", "a"],
                "--summary covers the whole log. Remove --step, --sample-id",
            ),
            (
                ["--console", "all"],
                "--console: expected one of full, compact, line, got 'all'. See higgs-audio-trainer show --help.",
            ),
            (["--log_samples", "-1"], "--log_samples: expected a number of samples, 0 for none, got '-1'"),
            (["--wdth"], "--wdth: expected a known flag. Did you mean --width? See higgs-audio-trainer show --help."),
        ],
    )
    def test_bad_values(self, log, capsys, arguments, message):
        """A bad value is an error of one line with exit code 2."""
        assert show(capsys, log, *arguments) == (2, "", f"higgs-audio-trainer: {message}\n")

    def test_no_path(self, capsys):
        """A missing path is an error."""
        code, _, err = show(capsys)
        assert code == 2
        assert "FILE|DIR" in err

    def test_help(self):
        """The help fits a terminal of 24 lines of 80 columns."""
        text = parser("higgs-audio-trainer show").format_help()
        assert len(text.splitlines()) <= 24


class TestInput:
    def test_not_there(self, tmp_path, capsys):
        """A missing file is an error."""
        code, out, err = show(capsys, tmp_path / "nowhere")
        assert (code, out) == (2, "")
        assert "nowhere: No such file or directory. Name a file or a folder of logs." in err

    def test_faults(self, log, capsys):
        """A line without an event is reported on stderr with its position. All other lines are printed."""
        with file_of(log).open("ab") as file:
            file.write(b'{"event": "tra')
        code, out, err = show(capsys, log, "--event", "checkpoint")
        assert (code, out) == (0, "saved checkpoint-20\n")
        assert f"{file_of(log)}:16 (byte " in err
        assert "a torn last line" in err

    @pytest.mark.parametrize("flags", [[], ["--summary"]])
    @pytest.mark.parametrize("junk", [b"\x00\xff\n" * 3, b"[1]\n", b"plain text\n", b"\x1f\x8b\x08junk"])
    def test_no_log_at_all(self, tmp_path, capsys, junk, flags):
        """A file without any event is an error with exit code 2 and without a traceback."""
        (tmp_path / "x").write_bytes(junk)
        code, out, err = show(capsys, tmp_path / "x", *flags)
        assert (code, out) == (2, "")
        assert "x: expected a log, got no line that holds an event" in err
        assert "Traceback" not in err

    def test_empty(self, tmp_path, capsys):
        """An empty log prints nothing."""
        file_of(tmp_path).touch()
        assert show(capsys, tmp_path) == (0, "", "no event matches (0 read)\n")

    def test_compressed(self, tmp_path, capsys):
        """Compressed files are read."""
        (tmp_path / "log.gz").write_bytes(gzip.compress(dump(records_of([checkpoint()]))))
        assert show(capsys, tmp_path / "log.gz") == (0, "saved checkpoint-20\n", "")

    def test_unknown_events(self, tmp_path, capsys):
        """Events of newer versions are printed field by field, escaped."""
        (tmp_path / "log").write_bytes(b'{"event": "new", "text": "\\u001b[2J"}\n')
        assert show(capsys, tmp_path / "log") == (0, "event=new  text=\\x1b[2J\n", "")

    @pytest.mark.parametrize("mark", [["abc"], 5, {"a": {}}, "x", [None], {"a": -1}])
    def test_odd_marks(self, tmp_path, capsys, mark):
        """Foreign values in our marker fields are printed unchanged."""
        (tmp_path / "log").write_bytes(dump([record_of(checkpoint()) | {"shortened": mark, "nonfinite": mark}]))
        code, out, _ = show(capsys, tmp_path / "log")
        assert code == 0
        assert out.startswith("saved checkpoint-20  (not finite: ")

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_mutated(self, tmp_path, capsys, data):
        """A damaged log causes no traceback and no control characters in any format."""
        log = bytearray(dump(records_of([*all_events(), diagnosis(severity="error")])))
        for _ in range(data.draw(st.integers(1, 8))):
            log[data.draw(st.integers(0, len(log) - 1))] = data.draw(st.integers(0, 255))
        file_of(tmp_path).write_bytes(log)
        for flags in ([], ["--width", "30", "--mismatches-only"], ["--summary"]):
            code, out, err = show(capsys, tmp_path, *flags)
            assert code in (0, 2)
            assert "Traceback" not in err
            assert "\x1b" not in out + err


class TestProcess:
    def test_a_reader_that_left(self, tmp_path):
        """A closed pipe like `| head -1` ends the command with 0 and no message."""
        file_of(tmp_path).write_bytes(dump(records_of([run_start(), *[text_sample()] * 5_000])))
        command = [sys.executable, "-m", "higgs_audio_trainer", "show", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shown:
            assert shown.stdout.readline().startswith(b"run r:")
            shown.stdout.close()
            assert (shown.wait(60), shown.stderr.read()) == (0, b"")

    def test_standard_input(self):
        """A log may come from standard input."""
        command = [sys.executable, "-m", "higgs_audio_trainer", "show", "-"]
        log = dump(records_of([checkpoint()]))
        shown = subprocess.run(command, input=log, capture_output=True, check=True, timeout=60)
        assert (shown.stdout, shown.stderr) == (b"saved checkpoint-20\n", b"")

    def test_a_closed_standard_output(self, tmp_path):
        """A closed standard output is no error."""
        file_of(tmp_path).write_bytes(dump(records_of([checkpoint()])))
        command = 'exec "$1" -m higgs_audio_trainer show "$2" >&-'
        shown = subprocess.run(
            ["sh", "-c", command, "sh", sys.executable, str(tmp_path)],
            capture_output=True,
            check=False,
            timeout=60,
            env=os.environ,
        )
        assert (shown.returncode, shown.stderr) == (0, b"")
