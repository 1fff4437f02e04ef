"""The demo from a user's view."""

import json
import shlex
import shutil
import subprocess

import pytest

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.demo.faults import FAULTS
from higgs_audio_trainer.demo.run import CLIPS, run_demo
from higgs_audio_trainer.errors import UserError
from tests.readme import PHASE_LINE
from tests.test_run import read_log

SILENT = [("say_steps", 0)]  # an untrained model speaks to the limit, which would take most of a short demo's time


def test_the_demo_learns(demo):
    """The accuracy of codebook 0 rises above 0.6, and the console shows the progress."""
    folder, finished = demo
    assert finished.returncode == 0, finished.stderr
    assert all(PHASE_LINE.fullmatch(line) for line in finished.stderr.splitlines()), finished.stderr
    steps = [event for event in read_log(folder / "higgs-demo/run") if event["event"] == "train_step"]
    assert steps[0]["audio_accuracy_per_codebook"][0] < 0.05
    assert steps[-1]["audio_accuracy_per_codebook"][0] > 0.6
    assert "Audio Prediction vs Label Comparison (Codebook 0):" in finished.stdout


def test_the_demo_speaks_by_itself_what_it_learned(demo):
    """Greedy speech has most codes of each recording and ends with it: free generation reaches teacher forcing."""
    folder, finished = demo
    events = [event for event in read_log(folder / "higgs-demo/run") if event["event"] == "generation_sample"]
    assert len(events) == 8
    assert {event["step"] for event in events} == {60}
    assert all(event["agreement"][0] > 0.5 for event in events)
    assert all(event["stopped"] and abs(event["frames"] - event["frames_label"]) <= 2 for event in events)
    assert all((folder / "higgs-demo/run" / event["audio"]).is_file() for event in events)
    assert "Generated en-1: 2.9 s of 2.9 s, stopped by itself, " in finished.stdout


def test_the_demo_ends_with_lines_whose_commands_work(demo, here, tmp_path):
    """The last lines hold the result, the paths and four working commands."""
    made, finished = demo
    folder = shutil.copytree(made, tmp_path / "copy")  # other tests read the demo as it was
    lines = finished.stdout.rstrip().splitlines()[-8:]
    assert lines[0].startswith("Learned in 60 steps")
    assert lines[1].startswith(
        "Spoken: 8 of 8 sentences as recorded in most frames of codebook 0, 8 ended by the model"
    )
    assert lines[2] == "Adapter:       higgs-demo/run"
    assert lines[3].startswith("Log:           higgs-demo/run/events/")
    assert (folder / "higgs-demo/run/adapter_model.safetensors").is_file()
    every_codebook, go_on, read, speak = (line.partition(":")[2].strip() for line in lines[4:])
    # The same run with fewer steps.
    assert "Codebook 7" in here(every_codebook.replace(" --max_steps 20", " --max_steps 1"), folder)
    assert "run ended: completed at step 61" in here(go_on.replace(" --max_steps 120", " --max_steps 61"), folder)
    assert read_log(folder / "higgs-demo/run", attempt=1)[0]["resumed_from_step"] == 60
    done = subprocess.run(shlex.split(read), cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    assert "completed at step 61" in done.stdout
    assert "stopped by itself" in here(speak, folder)


def test_a_second_demo_replaces_only_what_a_demo_made(tmp_path):
    """The user's files stay, the run is new, and the changes of an earlier fault are gone."""
    folder, runs = tmp_path / "d", set()
    for fault in ("silent_clip", "stop_masked", None):
        found = run_demo(folder, max_steps=1, seed=0, log_steps=1, more=SILENT, fault=fault).found
        assert bool(found) == (fault is not None), "files and functions are as they were"
        if not runs:
            (folder / "mine.txt").write_text("keep me")
        runs.add(read_log(folder / "run")[0]["run_id"])
    assert len(runs) == 3
    assert (folder / "mine.txt").read_text() == "keep me"


def test_a_folder_that_no_demo_made_is_refused(tmp_path, capsys):
    """A folder with other files stays unchanged."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="expected a new or empty folder"):
        run_demo(tmp_path, max_steps=1, seed=0, log_steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    file = tmp_path / "thesis.tex"
    assert main(["demo", "--output_dir", str(file)]) == 2
    assert "got a file" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--max_steps", "--log_steps"])
def test_the_demos_numbers_have_a_range(tmp_path, capsys, flag):
    """A number out of range creates no folder."""
    assert main(["demo", "--output_dir", str(tmp_path / "d"), flag, "0"]) == 2
    assert f"{flag}: expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_the_clips_are_small_and_have_transcripts():
    """The clips are English and Arabic, take under 1 MB in all, and have texts."""
    entries = [json.loads(line) for line in (CLIPS / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["id"][:2] for entry in entries} == {"en", "ar"}
    assert all((CLIPS / entry["audio"]).is_file() and entry["text"] for entry in entries)
    assert sum(path.stat().st_size for path in CLIPS.iterdir()) < 1_000_000


def test_the_faults_are_listed(capsys):
    """The list has a line with the mistake for each fault, and no training starts."""
    assert main(["demo", "--fault", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FAULTS)
    assert all(line.endswith(fault.mistake) for line, fault in zip(lines, FAULTS.values(), strict=True))


@pytest.mark.parametrize(("name", "hint"), [("same_indx", "same_index"), ("zzz", "stop_masked")])
def test_a_fault_that_there_is_not(tmp_path, capsys, name, hint):
    """The nearest name is suggested, or all are named; nothing is made."""
    assert main(["demo", "--fault", name, "--output_dir", str(tmp_path / "d")]) == 2
    error = capsys.readouterr().err
    assert f"got '{name}'" in error
    assert hint in error
    assert not (tmp_path / "d").exists()


def test_a_planted_fault_is_told_first_and_found_at_last(tmp_path, capfd):
    """The demo prints the mistake first and the diagnosis last, and the log holds the diagnosis."""
    folder = tmp_path / "d"
    assert main(["demo", "--fault", "stop_masked", "--max_steps", "1", "--output_dir", str(folder)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("Planted: stop_masked. Every stream EOS is masked, as ")
    assert lines[-3:] == [
        "Planted: stop_masked, found at step 1 by no_stop_target.",
        f"Check again:  higgs-audio-trainer diagnose {folder}/run",
        "Other faults: higgs-audio-trainer demo --fault list",
    ]
    assert not any(line.startswith("Learned in") for line in lines)
    assert main(["diagnose", str(folder / "run")]) == 1
    assert "error (no_stop_target)" in capfd.readouterr().out


def test_a_fault_that_was_not_found_is_admitted(tmp_path):
    """A planted fault that needs trained weights to show is not found at step 1."""
    outcome = run_demo(tmp_path / "d", max_steps=1, seed=0, log_steps=1, more=SILENT, fault="codebook_shuffled")
    assert outcome.summary()[0] == "Planted: codebook_shuffled, not found by dead_codebook."
