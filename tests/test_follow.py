"""A log is followed round by round: whatever its writer does to its files, each event is shown once."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs import lines
from higgs_audio_trainer.logs.follow import Follower
from higgs_audio_trainer.logs.reader import read_lines
from sinks.jsonl import JsonlSink
from tests.builders import checkpoint, record_of, run_start, text_sample, train_step
from tests.test_reader import attempt_of, dump, file_of, records_of

SHOW = [sys.executable, "-m", "higgs_audio_trainer", "show"]
PATIENCE_S = 60


class Followed:
    """A follower whose rounds are driven by hand."""

    def __init__(self, *paths, all_attempts=False):
        self.faults = []
        self.follower = Follower(*paths, all_attempts=all_attempts, on_problem=self.faults.append)

    def round(self):
        """Return what a round brings: rank, attempt and number of each event."""
        found = (line.record for line in self.follower.lines())
        return [(record["rank"], record["attempt"], record["seq"]) for record in found]

    def seqs(self):
        """Return the numbers of the events that a round brings."""
        return [seq for _, _, seq in self.round()]


def append(path, data):
    """Add bytes to a file."""
    with Path(path).open("ab") as file:
        file.write(data)


def steps(count, *, start=0, **envelope):
    """Make records of a run's first steps."""
    events = [run_start(), *(train_step(step=step) for step in range(1, count))]
    return records_of(events, **envelope)[start:]


class TestFiles:
    def test_what_is_there_and_what_comes(self, tmp_path):
        """The first round has all there is, later ones what was added, and nothing twice."""
        append(file_of(tmp_path), dump(steps(3)))
        followed = Followed(tmp_path)
        assert followed.seqs() == [0, 1, 2]
        assert followed.seqs() == []
        append(file_of(tmp_path), dump(steps(5, start=3)))
        assert followed.seqs() == [3, 4]
        assert followed.seqs() == []

    @pytest.mark.parametrize("cut", [1, 40, -1])
    def test_a_torn_tail_that_is_finished(self, tmp_path, cut):
        """A line is shown once it is whole, and it is no fault until then."""
        line = dump(steps(2, start=1))
        append(file_of(tmp_path), dump(steps(1)) + line[:cut])
        followed = Followed(tmp_path)
        assert followed.seqs() == [0]
        assert followed.seqs() == []
        append(file_of(tmp_path), line[cut:])
        assert followed.seqs() == [1]
        assert followed.faults == []

    def test_a_torn_tail_that_is_ended(self, tmp_path):
        """A line that the writer gave up, and ended so that the next is whole, is a fault."""
        append(file_of(tmp_path), dump(steps(1)) + b'{"event": "tra')
        followed = Followed(tmp_path)
        assert followed.seqs() == [0]
        append(file_of(tmp_path), b"\n" + dump(steps(2, start=1)))
        assert followed.seqs() == [1]
        assert [fault.where for fault in followed.faults] == [f"{file_of(tmp_path)}:2 (byte {len(dump(steps(1)))})"]

    def test_a_torn_tail_that_nobody_will_finish(self, tmp_path):
        """Once a later attempt writes, the torn line of the killed one is a fault."""
        append(file_of(tmp_path), dump(steps(2)) + b'{"event": "tra')
        followed = Followed(tmp_path)
        assert followed.seqs() == [0, 1]
        assert followed.faults == []
        append(file_of(tmp_path, attempt=1), dump(steps(1, attempt=1)))
        assert followed.round() == [(0, 1, 0)]
        assert len(followed.faults) == 1

    def test_new_segments(self, tmp_path):
        """A new segment is read after the end of the one before; what both hold is shown once."""
        append(file_of(tmp_path), dump(steps(2)))
        followed = Followed(tmp_path)
        assert followed.seqs() == [0, 1]
        start, *rest = steps(5)
        append(file_of(tmp_path), dump(rest[1:2]))
        append(file_of(tmp_path, segment=1), dump([start, *rest[1:3]]))
        assert followed.seqs() == [2, 3]
        append(file_of(tmp_path, segment=1), dump(rest[3:]))
        assert followed.seqs() == [4]

    def test_new_ranks(self, tmp_path):
        """What several ranks add is put in order within a round."""
        append(file_of(tmp_path), dump(steps(3)))
        followed = Followed(tmp_path)
        followed.round()
        append(file_of(tmp_path, rank=1), dump(steps(5, rank=1)))
        append(file_of(tmp_path), dump(steps(5, start=3)))
        assert followed.round() == [(1, 0, 0), (1, 0, 1), (1, 0, 2), (0, 0, 3), (1, 0, 3), (0, 0, 4), (1, 0, 4)]

    def test_kept_segments(self, tmp_path):
        """Segments that the sink deletes are forgotten; the rest goes on."""
        start, *rest = steps(6)
        append(file_of(tmp_path), dump([start, *rest[:2]]))
        append(file_of(tmp_path, segment=1), dump([start, *rest[2:3]]))
        followed = Followed(tmp_path)
        assert followed.seqs() == [0, 1, 2, 3]
        file_of(tmp_path).unlink()
        append(file_of(tmp_path, segment=1), dump(rest[3:]))
        assert followed.seqs() == [4, 5]

    @pytest.mark.parametrize("replace", [True, False], ids=["another file", "truncated"])
    def test_a_file_that_begins_anew(self, tmp_path, replace):
        """A file that shrinks, or another one of its name, is read from its beginning."""
        append(file_of(tmp_path), dump(steps(4)))
        followed = Followed(tmp_path)
        followed.round()
        if replace:
            (tmp_path / "new").write_bytes(dump(steps(5)))
            (tmp_path / "new").replace(file_of(tmp_path))
            assert followed.seqs() == [0, 1, 2, 3, 4]
        else:
            file_of(tmp_path).write_bytes(dump(steps(2)))
            assert followed.seqs() == [0, 1]

    def test_a_file_that_is_compressed(self, tmp_path):
        """A segment that is compressed when it is full is not shown again, and its last lines are."""
        append(file_of(tmp_path), dump(steps(3)))
        followed = Followed(tmp_path)
        assert followed.seqs() == [0, 1, 2]
        packed = file_of(tmp_path).with_suffix(".jsonl.gz")
        packed.write_bytes(gzip.compress(dump(steps(5))))
        file_of(tmp_path).unlink()
        append(file_of(tmp_path, segment=1), dump([steps(1)[0], *steps(6, start=5)]))
        assert followed.seqs() == [3, 4, 5]
        assert followed.seqs() == []

    def test_a_line_that_is_too_long(self, tmp_path, monkeypatch):
        """A line longer than any that the writer makes is one fault, in however many pieces it comes."""
        monkeypatch.setattr(lines, "LONGEST_LINE", 1_000)
        append(file_of(tmp_path), b"x" * 1_500)
        followed = Followed(tmp_path)
        assert followed.seqs() == []
        append(file_of(tmp_path), b"x" * 1_500 + b"\n" + dump(steps(1)))
        assert followed.seqs() == [0]
        assert [fault.got for fault in followed.faults] == ["3,001 bytes"]


class TestPaths:
    def test_an_empty_folder(self, tmp_path):
        """A folder without a log is waited for, also where the log comes in a folder of its own."""
        followed = Followed(tmp_path)
        assert followed.seqs() == []
        assert followed.follower.waiting == [tmp_path]
        (tmp_path / "events").mkdir()
        append(file_of(tmp_path / "events"), dump(steps(2)))
        assert followed.seqs() == [0, 1]
        assert followed.follower.waiting == []

    def test_a_folder_that_is_deleted_and_made_again(self, tmp_path):
        """A run that is started anew in its place is shown from its beginning."""
        folder = tmp_path / "run"
        folder.mkdir()
        append(file_of(folder), dump(steps(3)))
        followed = Followed(folder)
        assert followed.seqs() == [0, 1, 2]
        shutil.rmtree(folder)
        assert followed.seqs() == []
        assert not followed.follower.has_ended
        folder.mkdir()
        append(file_of(folder), dump(steps(2)))
        assert followed.seqs() == [0, 1]

    def test_nothing_there(self, tmp_path):
        """A path that is not there is bad input."""
        with pytest.raises(UserError, match=r"nowhere: No such file"):
            Followed(tmp_path / "nowhere")

    def test_a_named_file(self, tmp_path):
        """Of a file, later segments of its rank and attempt are followed, and nothing else."""
        for rank, attempt, segment in [(0, 0, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)]:
            append(file_of(tmp_path, rank, attempt, segment), dump(steps(1, rank=rank, attempt=attempt)))
        followed = Followed(file_of(tmp_path, segment=1))
        assert followed.round() == [(0, 0, 0)]
        append(file_of(tmp_path, segment=2), dump(steps(3, start=1)))
        assert followed.seqs() == [1, 2]

    def test_a_file_of_another_name(self, tmp_path):
        """A file that is not named as the sink names them is followed by itself."""
        append(tmp_path / "log.jsonl", dump(steps(2)))
        followed = Followed(tmp_path / "log.jsonl")
        assert followed.seqs() == [0, 1]
        append(tmp_path / "log.jsonl", dump(steps(3, start=2)))
        assert followed.seqs() == [2]
        (tmp_path / "log.jsonl").unlink()
        assert followed.seqs() == []

    def test_a_pipe(self, tmp_path):
        """A pipe is read to its end, once, and then nothing can come."""
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=append, args=(tmp_path / "pipe", dump(steps(2))))
        writer.start()
        followed = Followed(tmp_path / "pipe")
        assert not followed.follower.has_ended
        assert followed.seqs() == [0, 1]
        assert followed.follower.has_ended
        assert followed.seqs() == []
        writer.join()


class TestAttempts:
    @pytest.mark.parametrize("all_attempts", [False, True])
    def test_what_was_superseded_before(self, tmp_path, all_attempts):
        """The first round shows what `read` shows."""
        for attempt, events in enumerate([attempt_of(), attempt_of(resumed=4)]):
            append(file_of(tmp_path, attempt=attempt), dump(records_of(events, attempt=attempt)))
        followed = Followed(tmp_path, all_attempts=all_attempts)
        expected = [line.record for line in read_lines(tmp_path, all_attempts=all_attempts)]
        assert [line.record for line in followed.follower.lines()] == expected

    def test_a_resume(self, tmp_path):
        """A later attempt is shown as it comes, also the steps that it makes anew."""
        append(file_of(tmp_path), dump(records_of(attempt_of(stopped_at=6))))
        followed = Followed(tmp_path)
        followed.round()
        resumed = records_of(attempt_of(resumed=4), attempt=1)
        append(file_of(tmp_path, attempt=1), dump(resumed))
        assert followed.round() == [(0, 1, record["seq"]) for record in resumed]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_writing(data):
    """However a log is written, cut into segments and looked at, a follower shows what a reader of the end shows."""
    records = steps(data.draw(st.integers(2, 12)))
    with TemporaryDirectory() as folder:
        followed, shown, segment = Followed(folder), [], 0
        for record in records:
            if record["seq"] and data.draw(st.booleans()):
                segment += 1
                append(file_of(folder, segment=segment), dump(records[:1]))
            line = dump([record])
            cut = data.draw(st.integers(0, len(line)))
            for part in (line[:cut], line[cut:]):
                append(file_of(folder, segment=segment), part)
                if data.draw(st.booleans()):
                    shown += followed.seqs()
        shown += followed.seqs()
        assert shown == [record["seq"] for record in records]
        assert followed.faults == []


class TestCommand:
    def test_a_real_writer(self, tmp_path):
        """A process shows what a sink writes, over segments, and ends quietly and with 130 at Ctrl-C."""
        folder = tmp_path / "events"
        with subprocess.Popen(
            [*SHOW, "--follow", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as shown:
            watchdog = threading.Timer(PATIENCE_S, shown.kill)
            watchdog.start()
            assert shown.stderr.readline() == f"waiting for events in {tmp_path}\n"
            sink = JsonlSink(file_of(folder), max_bytes=1_000)
            sink(record_of(run_start()))
            assert shown.stdout.readline().startswith("run ")
            for step in range(8):
                sink(record_of(checkpoint(step=step, path=f"checkpoint-{step}")) | {"seq": step + 1})
                assert shown.stdout.readline() == f"saved checkpoint-{step}\n"
            assert len(list(folder.iterdir())) > 1
            sink.close()
            shown.send_signal(signal.SIGINT)
            assert shown.communicate() == ("", "")
            assert shown.returncode == 130
            watchdog.cancel()

    def test_a_reader_that_left(self, tmp_path):
        """Whoever closed the pipe has read enough: the command ends at once, with 0, though nothing comes."""
        append(file_of(tmp_path), dump(steps(1)))
        with subprocess.Popen(
            [*SHOW, "--follow", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as shown:
            assert shown.stdout.readline().startswith("run r:")
            shown.stdout.close()
            assert shown.wait(PATIENCE_S) == 0
            assert shown.stderr.read() == ""

    def test_standard_input(self):
        """Standard input is shown line by line as it comes, until it ends."""
        with subprocess.Popen(
            [*SHOW, "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as shown:
            watchdog = threading.Timer(PATIENCE_S, shown.kill)
            watchdog.start()
            shown.stdin.write(dump(steps(1)))
            shown.stdin.flush()
            assert shown.stdout.readline().startswith(b"run r:")
            out, err = shown.communicate(dump(records_of([run_start(), text_sample()])[1:]))
            assert out.startswith(b"Sample 1 ")
            assert (shown.returncode, err) == (0, b"")
            watchdog.cancel()
