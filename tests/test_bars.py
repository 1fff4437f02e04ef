"""Text and progress bars on one terminal of 80 columns, of our trainer and of others: no lost and no glued letters."""

import os
import re
import sys
import termios
import threading
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import pytest
import transformers
from tqdm import tqdm

from higgs_audio_trainer import PredictionLogger
from sinks.terminal.bars import ForeignBars
from sinks.terminal.screen import Screen
from tests import forks
from tests.adapted import make
from tests.emulator import COLUMNS, emulator
from tests.test_prediction_logger import Tokens, _words, arguments

STYLE = re.compile(r"\x1b\[[\d;]*m")
#: A bar, and the figures that the Trainer of transformers prints.
OF_OTHERS = re.compile(r"\s*\d+%\|[^\]]*\]|\{'[^{}]*\}")


def noting(folder, work, *given):
    """Do work that shows text, and note the text in a file."""
    show = Screen.show

    def noted(self, text):
        with (Path(folder) / "shown").open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
        show(self, text)

    Screen.show = noted
    work(folder, *given)


def plain(folder):
    """Train by `transformers.Trainer`, whose bar and figures are on the same terminal, with an evaluation."""
    trainer = transformers.Trainer(
        model=make("llama")[0].train(),
        args=arguments(folder, disable_tqdm=False, max_steps=40, eval_strategy="steps", eval_steps=10),
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=[PredictionLogger(folder, log_steps=2, sinks="console")],
    )
    trainer.train()


def sft(folder):
    """Train by trl's SFTTrainer."""
    import datasets
    import trl

    rows = [{name: tokens.tolist() for name, tokens in Tokens()[index].items()} for index in range(16)]
    common = {"max_steps": 20, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no"}
    trainer = trl.SFTTrainer(
        model=make("llama")[0],
        args=trl.SFTConfig(folder, use_cpu=True, bf16=False, report_to=[], logging_steps=2, **common),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.PreTrainedTokenizerFast(
            tokenizer_object=_words(), pad_token="<pad>", eos_token="</s>"
        ),
        callbacks=[PredictionLogger(folder, log_steps=2, sinks="console")],
    )
    trainer.train()


def ours(_folder, *words):
    """Train by our command line."""
    forks.command(*words)


def rows_of(text):
    """Return the rows that a terminal shows of a text, without empty rows."""
    lines = STYLE.sub("", text).split("\n")
    return [row for line in lines for at in range(0, len(line), COLUMNS) if (row := line[at : at + COLUMNS].rstrip())]


def check(folder, shown):
    """Check that each row of the noted text is on the screen, in order, and that other rows are bars and figures."""
    expected = rows_of((folder / "shown").read_text(encoding="utf-8"))
    assert len(expected) > 50
    others, left = [], iter(expected)
    wanted = next(left)
    for row in shown[shown.index(wanted) :]:  # warnings of other packages come before
        if row == wanted:
            wanted = next(left, None)
        else:
            others.append(row)
    assert wanted is None, f"not on the screen: {wanted!r}"
    assert OF_OTHERS.sub("", "".join(others)) == ""


def on_terminal(folder, work, *given):
    """Return the lines of a terminal on which a process works."""
    with emulator() as terminal:
        process = forks.start(noting, str(folder), work, *given, out=terminal.path, err=terminal.path)
        process.join(forks.PATIENCE_S)
        lines = terminal.end()
        assert process.exitcode == 0, lines
    return lines


def test_plain_trainer(tmp_path):
    """`PredictionLogger` beside the bar of `transformers.Trainer`, nested at evaluations, and beside its figures."""
    lines = on_terminal(tmp_path, plain)
    check(tmp_path, lines)
    assert any(line.startswith("{'loss': ") for line in lines)
    assert any(line.startswith("100%|") and "40/40" in line for line in lines), "the bar stays, as without a logger"


def test_sft_trainer(tmp_path):
    """`PredictionLogger` beside the bar of trl's SFTTrainer."""
    pytest.importorskip("trl")
    check(tmp_path, on_terminal(tmp_path, sft))


def test_our_trainer(tiny, clips, tmp_path):
    """Our bar, which leaves nothing behind."""
    words = ["--base_ckpt", tiny.model_dir, "--audio_tokenizer", tiny.codec_dir, "--train_manifest", clips]
    words += ["--output_dir", tmp_path / "out", "--max_steps", 12, "--log_steps", 1, "--grad_accum", 1]
    lines = on_terminal(tmp_path, ours, *map(str, [*words, "--batch_size", 4, "--use_cpu", "true"]))
    check(tmp_path, lines)
    assert not any("%|" in line for line in lines)


class Bars:
    """A terminal in this process, a screen on it, and bars of other code."""

    def __init__(self, terminal):
        self.out = open(terminal.file, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
        self.screen = Screen(self.out, self.out)
        self.bar = partial(tqdm, file=self.out, mininterval=0, bar_format="{desc}{n_fmt} of {total_fmt}", ncols=40)

    def close(self):
        self.screen.close()
        self.out.close()


@pytest.fixture
def bars():
    with emulator() as terminal:
        made = Bars(terminal)
        yield terminal, made
        made.close()


def test_nested_bars(bars):
    """Two bars below each other go, and come back below the text."""
    terminal, made = bars
    with made.bar(total=9, desc="outer ") as outer, made.bar(total=5, desc="inner ", leave=False) as inner:
        outer.update()
        inner.update()
        made.screen.show("one\ntwo")
        terminal.wait_for(lambda lines: lines[:4] == ["one", "two", "outer 1 of 9", "inner 1 of 5"])
    made.screen.show("three")
    assert terminal.wait_for(lambda lines: "three" in lines)[:4] == ["one", "two", "outer 1 of 9", "three"]


def test_status_makes_room_for_a_bar(bars):
    """The line of the status belongs to a bar as long as there is one."""
    terminal, made = bars
    made.screen.status("loading for a long time, in a long line")
    terminal.wait_for(lambda lines: lines[0].startswith("loading"))
    with made.bar(total=9, leave=False):
        made.screen.show("one")
        terminal.wait_for(lambda lines: lines[:3] == ["one", "0 of 9", ""])
        made.screen.status("loading still")
        made.screen.show("two")
        terminal.wait_for(lambda lines: lines[:4] == ["one", "two", "0 of 9", ""])
    made.screen.status("loading again")
    terminal.wait_for(lambda lines: lines[2] == "loading again")


def test_a_lock_that_nobody_gives_back(bars):
    """Fault: other code keeps the lock of tqdm. Expected: the text is shown, after a bounded wait."""
    terminal, made = bars
    with made.bar(total=9):
        held, done = threading.Event(), threading.Event()

        def hold():
            with tqdm.get_lock():
                held.set()
                done.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(60)
        made.screen.show("one")
        terminal.wait_for(lambda lines: lines[:2] == ["one", "0 of 9"])
        done.set()
        thread.join()


def test_a_stopped_terminal_keeps_no_lock(bars):
    """Fault: Ctrl-S. Expected: tqdm's lock stays free for bars on other files; Ctrl-Q shows each line whole."""
    terminal, made = bars
    text = "\n".join(f"line {number:05d} {'x' * 60}" for number in range(3_000))
    with made.bar(total=9):
        made.screen.show("one")
        terminal.wait_for(lambda lines: lines[0] == "one")
        termios.tcflow(terminal.file, termios.TCOOFF)
        made.screen.show(text)
        for _ in range(200):
            assert tqdm.get_lock().locks[-1].acquire(timeout=10)
            tqdm.get_lock().locks[-1].release()
        termios.tcflow(terminal.file, termios.TCOON)
        lines = terminal.wait_for(lambda lines: "line 02999" in lines[-2][:10])
    assert [line for line in lines if line.startswith("line")] == text.split("\n")


def test_bars_elsewhere_are_left_alone(tmp_path, monkeypatch):
    """Bars on files, disabled bars and our own status are no bars on the terminal."""
    with (tmp_path / "file").open("w") as file, redirect_stderr(file):
        screen = Screen(None, sys.stderr)
        made = [tqdm(total=1), tqdm(total=1, disable=True), tqdm(total=1, file=screen.status_stream())]
        assert not ForeignBars().are_drawn()
        for bar in made:
            bar.close()
    monkeypatch.delitem(sys.modules, "tqdm.std")
    assert not ForeignBars().are_drawn()
    assert os.path.getsize(tmp_path / "file")  # noqa: PTH202 - the bar was drawn there
