"""The lines of `docs/tools.md` for other tools, run with the real tools and compared with figures computed here."""

import json
import os
import re
import shutil
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from higgs_audio_trainer.events import EVENTS, Envelope
from tests.readme import ROOT, call, shell
from tests.test_pages import TOOLS

(
    ACCURACIES,
    MISMATCHES,
    COPIES,
    NO_STOP,
    LOSSES,
    MERGED,
    WORST,
    SECOND_RUN,
    SIDE_BY_SIDE,
    ENDS,
    PLAIN,
    TYPED,
    INSTALL,
    LNAV,
) = TOOLS
LOG = "higgs-demo/run/events/rank00000-attempt000.jsonl"
LNAV_FORMAT = ROOT / "examples/lnav/higgs_audio_trainer.json"


def needs(tool):
    """Skip a test if a tool is missing. In CI a missing tool is a failure."""
    return pytest.mark.skipif(
        shutil.which(tool) is None and "CI" not in os.environ, reason=f"{tool} is not installed; CI installs it"
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Run a short demo and the second run of the page's comparison."""
    folder = tmp_path_factory.mktemp("tools")
    call("higgs-audio-trainer demo --max_steps 4 --log_steps 2 --say_steps 0", folder)
    call(SECOND_RUN.replace("--max_steps 20", "--max_steps 2"), folder)
    return folder


@pytest.fixture(scope="module")
def edited(real, tmp_path_factory):
    """Edit the demo's log: partly correct predictions, a copy, a missing stop token, a torn last line."""
    folder = tmp_path_factory.mktemp("edited")
    records = records_of(real)
    samples = [record for record in records if record["event"] == "prediction_sample" and record["modality"] == "audio"]
    for number, sample in enumerate(samples):
        sample["accuracy"], sample["num_correct"] = number / 8, number
        sample["first"]["predictions"][: number % 6] = sample["first"]["labels"][: number % 6]
        if number % 2:
            sample["last"]["predictions"] = list(sample["last"]["labels"])
    for window in ("first", "last"):
        samples[2][window]["predictions"] = list(samples[2][window]["inputs"])
    samples[3]["stop_targets"] = 0
    first_step = next(record for record in records if record["event"] == "train_step")
    first_step["audio_accuracy_per_codebook"][1] = None
    (folder / LOG).parent.mkdir(parents=True)
    (folder / LOG).write_text("".join(json.dumps(record) + "\n" for record in records) + '{"event":"train_step","st')
    return folder


@pytest.fixture(params=["real", "edited"])
def folder(request):
    """Return the folder of the demo's log, then the folder of the edited log."""
    return request.getfixturevalue(request.param)


def records_of(folder, log=LOG):
    """Read the complete lines of a log with the standard library."""
    return [json.loads(line) for line in (folder / log).read_text().splitlines() if line.endswith("}")]


def of(folder, event, log=LOG):
    return [record for record in records_of(folder, log) if record["event"] == event]


def audio(folder):
    return [sample for sample in of(folder, "prediction_sample") if sample["modality"] == "audio"]


def slots(sample):
    """Return position, input, label and prediction of each supervised slot in the windows."""
    return [
        slot
        for window in (sample["first"], sample["last"])
        for slot in zip(window["positions"], window["inputs"], window["labels"], window["predictions"], strict=True)
        if slot[2] != -100
    ]


def tsv(text):
    return [[value(cell) for cell in line.split("\t")] for line in text.splitlines()]


def table(text):
    """Return the rows of a table drawn with lines."""
    rows = [re.split("[│┆]", line)[1:-1] for line in text.splitlines() if line.startswith("│")]
    return [[value(cell.strip()) for cell in row] for row in rows[1:] if not set("".join(row)) <= set("- ")]


def value(cell):
    """Parse a cell printed by jq, DuckDB, polars or lnav."""
    if cell in ("", "NULL", "null", "<NULL>"):
        return None
    try:
        return float(cell)
    except ValueError:
        return cell


def jq(command, folder):
    """Run a command for complete logs on the log without its torn last line."""
    if folder.name.startswith("edited"):
        torn = (folder / LOG).read_text()
        (folder / LOG).write_text(torn[: torn.rindex("\n") + 1])
        try:
            return shell(command, folder)
        finally:
            (folder / LOG).write_text(torn)
    return shell(command, folder)


@needs("jq")
def test_jq_accuracy_per_codebook_over_steps(folder):
    """Rows are steps, columns are codebooks. A codebook without targets is empty."""
    expected = [[step["step"], *step["audio_accuracy_per_codebook"]] for step in of(folder, "train_step")]
    assert tsv(jq(ACCURACIES, folder)) == expected
    assert len(expected) == 3


@needs("jq")
def test_jq_first_mismatch(folder):
    """Each sample with a wrong prediction gives its first wrong slot."""
    expected = []
    for sample in audio(folder):
        wrong = [
            [sample["step"], sample["sample_id"], sample["codebook"], position, label, prediction]
            for position, _, label, prediction in slots(sample)
            if label != prediction
        ]
        expected += wrong[:1]
    assert tsv(jq(MISMATCHES, folder)) == expected
    assert expected


@needs("jq")
def test_jq_copies_and_missing_stop_labels(folder):
    """The demo gives no rows. The edited log gives the copying sample and the sample without a stop label."""
    copies = [
        [sample["step"], sample["sample_id"], sample["codebook"]]
        for sample in of(folder, "prediction_sample")
        if slots(sample) and all(fed == prediction for _, fed, _, prediction in slots(sample))
    ]
    no_stop = [
        [sample["step"], sample["sample_id"], sample["codebook"]]
        for sample in of(folder, "prediction_sample")
        if sample["num_targets"] and not sample["stop_targets"]
    ]
    assert [json.loads(line) for line in jq(COPIES, folder).splitlines()] == copies
    assert [json.loads(line) for line in jq(NO_STOP, folder).splitlines()] == no_stop
    assert len(copies) == len(no_stop) == (1 if folder.name.startswith("edited") else 0)


@needs("jq")
def test_jq_losses(folder):
    """Losses are read from a torn log too, and equal the losses after `merge`."""
    names = ("step", "loss", "text_loss", "audio_loss", "learning_rate")
    expected = [[step[name] for name in names] for step in of(folder, "train_step")]
    assert tsv(shell(LOSSES, folder)) == [pytest.approx(row) for row in expected]
    merged = [json.loads(line) for line in shell(MERGED, folder).splitlines()]
    assert merged == [pytest.approx(row[:2]) for row in expected]


def test_duckdb_worst_samples(folder):
    """Samples are sorted by their last accuracy, worst first, from a torn log too."""
    last = {(sample["sample_id"], sample["codebook"]): sample["accuracy"] for sample in audio(folder)}
    expected = sorted(([*key, accuracy] for key, accuracy in last.items()), key=lambda row: (row[2], row[0], row[1]))
    assert table(shell(WORST, folder))[1:] == [pytest.approx(row) for row in expected]


def test_duckdb_two_runs(real):
    """Losses of two runs are joined by step, with null for a missing step."""
    run = {step["step"]: step["loss"] for step in of(real, "train_step")}
    slow = {step["step"]: step["loss"] for step in of(real, "train_step", LOG.replace("/run/", "/slow/"))}
    assert run.keys() > slow.keys()
    shown = table(shell(SIDE_BY_SIDE, real))
    assert shown[1:] == [[step, pytest.approx(run[step]), pytest.approx(slow.get(step))] for step in sorted(run)]


def test_polars_stop_tokens(folder):
    """The share of samples with a correct stop token in the last slot."""
    expected = []
    for step in sorted({sample["step"] for sample in audio(folder)}):
        ends = [
            sample["last"]["predictions"][-1] == sample["last"]["labels"][-1]
            for sample in audio(folder)
            if sample["step"] == step
        ]
        expected.append([step, 0, sum(ends) / len(ends)])
    assert table(shell(ENDS, folder))[1:] == expected


def test_plain_python(real, edited):
    """The standard library reads a complete log, `read` a torn log too."""
    expected = [[step["step"], step["loss"]] for step in of(real, "train_step")]
    assert [[float(cell) for cell in line.split()] for line in shell(PLAIN, real).splitlines()] == expected
    for folder in (real, edited):
        names = ("step", "sample_id", "codebook", "num_correct", "num_targets")
        samples = [" ".join(str(sample[name]) for name in names) for sample in of(folder, "prediction_sample")]
        assert sorted(shell(TYPED, folder).splitlines()) == sorted(samples)


@pytest.fixture
def lnav(tmp_path):
    """Install the lnav format with the page's line and return a function that runs other lines."""
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "TZ": "UTC"}
    (tmp_path / "config").mkdir()
    shell(INSTALL, ROOT, **home)
    return lambda command, folder: shell(command, folder, **home)


@needs("lnav")
def test_lnav_takes_the_format(lnav, tmp_path):
    """Lnav accepts the format."""
    assert lnav("lnav -C 2>&1", tmp_path) == ""


@needs("lnav")
def test_lnav_queries(lnav, folder):
    """SQL in lnav returns the events of a complete and a torn log."""
    names = ("step", "sample_id", "codebook", "num_correct", "num_targets")
    header, *rows = lnav(LNAV, folder).splitlines()
    assert header == ",".join(names)
    expected = [[sample[name] for name in names] for sample in of(folder, "prediction_sample")]
    assert [[value(cell) for cell in row.split(",")] for row in rows] == expected


@needs("lnav")
def test_lnav_shows_an_event_a_line(lnav, real):
    """A line of lnav has time, step, event, loss and subject."""
    shown = lnav("lnav -n higgs-demo/run/events", real).splitlines()
    assert len(shown) == len(records_of(real))
    step, sample, end = of(real, "train_step")[0], audio(real)[0], of(real, "run_end")[0]
    start = f"{step['ts'][11:19]}  step      1  train_step         loss {step['loss']:.9f}"
    assert shown[2].startswith(start[:53])
    assert shown[4].split() == [
        sample["ts"][11:19],
        *("step", "1", "prediction_sample", "loss", f"{sample['loss']:.9f}"[:6]),
        *(sample["sample_id"], "audio", "0", f"{sample['accuracy']:.3f}"),
    ]
    assert shown[-1].split() == [end["ts"][11:19], "step", "4", "run_end", "loss", "completed"]


def test_lnav_format_has_every_field():
    """The format declares each field of each event with its type, for SQL."""
    kinds = {bool: "boolean", int: "integer", float: "float", str: "string"}
    expected = {}
    for cls in (Envelope, *EVENTS.values()):
        hints = get_type_hints(cls)
        for item in fields(cls):
            hint = hints[item.name]
            choices = get_args(hint)
            if type(None) in choices:
                hint = choices[0]
            if get_origin(hint) is Literal:
                hint = str
            expected[item.name] = kinds.get(hint, "json")
    del expected["ts"]  # the time of the line
    known = json.loads(LNAV_FORMAT.read_text())["higgs_audio_trainer"]["value"]
    assert {name: entry["kind"] for name, entry in known.items()} == expected
