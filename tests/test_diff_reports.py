"""Reports are compared whole, at a fixed width; texts from a log stay texts in every format."""

# ruff: noqa: E501 - whole reports with long lines

import copy
import re
from xml.etree import ElementTree as ET

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.diff.compare import DiffOptions, diff
from higgs_audio_trainer.logs.diff.reports import FORMATS, render
from tests.builders import audio_sample, record_of, run_end, run_start, text_sample, train_step

HOSTILE = "\x1b[2J::error::x\n::set-env name=A::b ##[add-mask] ]]> <script>|`*_ \u202e\x9b\uffff مرحبا %0A"


def records_of(events):
    """Make the records of events, as a reader returns records."""
    return orjson.loads(orjson.dumps([record_of(event) | {"seq": seq} for seq, event in enumerate(events)]))


def run_of():
    """Make the records of a run."""
    steps = (make(step=step) for step in range(1, 4) for make in (train_step, text_sample, audio_sample))
    return records_of([run_start(), *steps, run_end(step=3)])


def differing():
    """Compare two runs that differ in each kind of difference once."""
    theirs = run_of()
    theirs[0]["config"]["lr"] = 2e-4
    theirs[0]["versions"]["torch"] = "2.12.0"
    theirs[0]["host"] = "elsewhere"
    theirs[4]["loss"] *= 1.25
    theirs[4]["audio_accuracy_per_codebook"][1] = None
    theirs[5]["logits_shape"] = [25, 128256]
    theirs[6]["first"]["predictions"][2] = 7
    theirs[6]["last"]["labels"][0] = -100
    theirs[9]["num_correct"] = 9
    return diff(run_of(), theirs[:7] + theirs[8:])


def drifting():
    """Compare two runs, of which the second has slightly larger gradients at all steps."""
    ours = records_of([train_step(step=step) for step in range(1, 11)])
    theirs = copy.deepcopy(ours)
    for record in theirs:
        record["grad_norm"] *= 1 + 4e-5
    return diff(ours, theirs)


TEXT = """\
A: records (run 20260102-030405-abcd, 11 events, steps 1 to 3)
B: records (run 20260102-030405-abcd, 10 events, steps 1 to 3)

The runs have different settings:
  config.lr: expected 0.0001, got 0.0002
  versions.torch: expected "2.13.0", got "2.12.0"
Different but not compared: host

First divergence: step 2, train_step
  loss: expected 4.13217, got 5.16521 (off by +0.25 relative; tolerance 0.0001 relative, 1e-06
      absolute)

Differences by kind:
  configuration            1
  versions                 1
  events only in A         1  1 train_step
  shapes and lengths       1
  masks                    1
  token ids and positions  1
  floats beyond tolerance  2
  other fields             1

  worst fields (off: in tolerances)       differ  step  expected    got     off  mean off
  train_step.loss                         1 of 2     2     4.132  5.165  +2,494    +1,247
  prediction_sample.first.predictions          1     2      9012      7
  prediction_sample.last.labels                1     2      2345   -100
  prediction_sample.logits_shape               1     2        24     25
  prediction_sample.num_correct                1     3        10      9
  train_step.audio_accuracy_per_codebook  1 of 3     2      0.25   null             +0.00

Differs: 5 of 10 joined events, 1 only in A; first at step 2.
"""

NARROW = """\
A: records (run 20260102-030405-abcd, 11 events, steps 1 to
    3)
B: records (run 20260102-030405-abcd, 10 events, steps 1 to
    3)

The runs have different settings:
  config.lr: expected 0.0001, got 0.0002
  versions.torch: expected "2.13.0", got "2.12.0"
Different but not compared: host

First divergence: step 2, train_step
  loss: expected 4.13217, got 5.16521 (off by +0.25
      relative; tolerance 0.0001 relative, 1e-06 absolute)

Differences by kind:
  configuration            1
  versions                 1
  events only in A         1  1 train_step
  shapes and lengths       1
  masks                    1
  token ids and positions  1
  floats beyond tolerance  2
  other fields             1

  worst fields (off: in tolerances)       differ  step
  train_step.loss                         1 of 2     2
  prediction_sample.first.predictions          1     2
  prediction_sample.last.labels                1     2
  prediction_sample.logits_shape               1     2
  prediction_sample.num_correct                1     3
  train_step.audio_accuracy_per_codebook  1 of 3     2

Differs: 5 of 10 joined events, 1 only in A; first at step
    2.
"""

MARKDOWN = """\
### ❌ Differs: 5 of 10 joined events, 1 only in A; first at step 2.

- A: <code>records (run 20260102-030405-abcd, 11 events, steps 1 to 3)</code>
- B: <code>records (run 20260102-030405-abcd, 10 events, steps 1 to 3)</code>

| different settings | expected | got |
| --- | ---: | ---: |
| <code>config.lr</code> | <code>0.0001</code> | <code>0.0002</code> |
| <code>versions.torch</code> | <code>"2.13.0"</code> | <code>"2.12.0"</code> |

Different but not compared: host

**First divergence:** <code>step 2, train&#95;step</code>: <code>loss: expected 4.13217, got 5.16521 (off by +0.25 relative; tolerance 0.0001 relative, 1e-06 absolute)</code>

| differences by kind | number |
| --- | ---: |
| <code>configuration</code> | <code>1</code> |
| <code>versions</code> | <code>1</code> |
| <code>events only in A</code> | <code>1</code> |
| <code>shapes and lengths</code> | <code>1</code> |
| <code>masks</code> | <code>1</code> |
| <code>token ids and positions</code> | <code>1</code> |
| <code>floats beyond tolerance</code> | <code>2</code> |
| <code>other fields</code> | <code>1</code> |

- events only in A: <code>1 train&#95;step</code>

| worst fields (off: in tolerances) | differ | step | expected | got | off | mean off |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| <code>train&#95;step.loss</code> | <code>1 of 2</code> | <code>2</code> | <code>4.132</code> | <code>5.165</code> | <code>+2,494</code> | <code>+1,247</code> |
| <code>prediction&#95;sample.first.predictions</code> | <code>1</code> | <code>2</code> | <code>9012</code> | <code>7</code> |  |  |
| <code>prediction&#95;sample.last.labels</code> | <code>1</code> | <code>2</code> | <code>2345</code> | <code>-100</code> |  |  |
| <code>prediction&#95;sample.logits&#95;shape</code> | <code>1</code> | <code>2</code> | <code>24</code> | <code>25</code> |  |  |
| <code>prediction&#95;sample.num&#95;correct</code> | <code>1</code> | <code>3</code> | <code>10</code> | <code>9</code> |  |  |
| <code>train&#95;step.audio&#95;accuracy&#95;per&#95;codebook</code> | <code>1 of 3</code> | <code>2</code> | <code>0.25</code> | <code>null</code> |  | <code>+0.00</code> |
"""

JUNIT = """\
<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="higgs-audio-trainer diff" tests="10" failures="8" errors="0" time="0">
  <testsuite name="higgs-audio-trainer diff" skipped="0" tests="10" failures="8" errors="0" time="0">
    <properties>
      <property name="A" value="records (run 20260102-030405-abcd, 11 events, steps 1 to 3)" />
      <property name="B" value="records (run 20260102-030405-abcd, 10 events, steps 1 to 3)" />
    </properties>
    <testcase classname="higgs_audio_trainer.diff" name="configuration" time="0">
      <failure type="configuration" message="1: configuration">config.lr: expected 0.0001, got 0.0002</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="versions" time="0">
      <failure type="versions" message="1: versions">versions.torch: expected "2.13.0", got "2.12.0"</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="events only in A" time="0">
      <failure type="only_in_expected" message="1: events only in A">1 train_step</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="events only in B" time="0" />
    <testcase classname="higgs_audio_trainer.diff" name="shapes and lengths" time="0">
      <failure type="shapes" message="1: shapes and lengths">prediction_sample.logits_shape: 1 differ at step 2: expected 24, got 25</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="masks" time="0">
      <failure type="masks" message="1: masks">prediction_sample.last.labels: 1 differ at step 2: expected 2345, got -100</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="token ids and positions" time="0">
      <failure type="tokens" message="1: token ids and positions">prediction_sample.first.predictions: 1 differ at step 2: expected 9012, got 7</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="floats beyond tolerance" time="0">
      <failure type="floats" message="2: floats beyond tolerance">First divergence: step 2, train_step: loss: expected 4.13217, got 5.16521 (off by +0.25 relative; tolerance 0.0001 relative, 1e-06 absolute)
train_step.loss: 1 of 2 differ at step 2: expected 4.132, got 5.165 (+2,494 tolerances, on average +1,247)
train_step.audio_accuracy_per_codebook: 1 of 3 differ at step 2: expected 0.25, got null</failure>
    </testcase>
    <testcase classname="higgs_audio_trainer.diff" name="one-sided drifts" time="0" />
    <testcase classname="higgs_audio_trainer.diff" name="other fields" time="0">
      <failure type="other" message="1: other fields">prediction_sample.num_correct: 1 differ at step 3: expected 10, got 9</failure>
    </testcase>
    <system-out>Differs: 5 of 10 joined events, 1 only in A; first at step 2.</system-out>
  </testsuite>
</testsuites>
"""

GITHUB = """\
::error title=configuration%3A 1::config.lr: expected 0.0001, got 0.0002
::error title=versions%3A 1::versions.torch: expected "2.13.0", got "2.12.0"
::error title=First divergence%3A step 2%2C train_step::loss: expected 4.13217, got 5.16521 (off by +0.25 relative; tolerance 0.0001 relative, 1e-06 absolute)
::error title=events only in A%3A 1::1 train_step
::error title=shapes and lengths%3A 1::prediction_sample.logits_shape
::error title=masks%3A 1::prediction_sample.last.labels
::error title=token ids and positions%3A 1::prediction_sample.first.predictions
::error title=floats beyond tolerance%3A 2::train_step.loss, train_step.audio_accuracy_per_codebook
::error title=other fields%3A 1::prediction_sample.num_correct
A: records (run 20260102-030405-abcd, 11 events, steps 1 to 3)
B: records (run 20260102-030405-abcd, 10 events, steps 1 to 3)

The runs have different settings:
  config.lr: expected 0.0001, got 0.0002
  versions.torch: expected "2.13.0", got "2.12.0"
Different but not compared: host

First divergence: step 2, train_step
  loss: expected 4.13217, got 5.16521 (off by +0.25 relative; tolerance 0.0001 relative, 1e-06
      absolute)

Differences by kind:
  configuration            1
  versions                 1
  events only in A         1  1 train_step
  shapes and lengths       1
  masks                    1
  token ids and positions  1
  floats beyond tolerance  2
  other fields             1

  worst fields (off: in tolerances)       differ  step  expected    got     off  mean off
  train_step.loss                         1 of 2     2     4.132  5.165  +2,494    +1,247
  prediction_sample.first.predictions          1     2      9012      7
  prediction_sample.last.labels                1     2      2345   -100
  prediction_sample.logits_shape               1     2        24     25
  prediction_sample.num_correct                1     3        10      9
  train_step.audio_accuracy_per_codebook  1 of 3     2      0.25   null             +0.00

Differs: 5 of 10 joined events, 1 only in A; first at step 2.
"""

DRIFT = """\
A: records (run 20260102-030405-abcd, 10 events, steps 1 to 10)
B: records (run 20260102-030405-abcd, 10 events, steps 1 to 10)

Differences by kind:
  one-sided drifts  1

Drift: train_step.grad_norm: 10 values, all within tolerance, but the mean is +0.40 tolerances off
    (one-sided)

Differs: 0 of 10 joined events, 1 one-sided drift.
"""

SAME = """\
A: records (run 20260102-030405-abcd, 11 events, steps 1 to 3)
B: records (run 20260102-030405-abcd, 11 events, steps 1 to 3)

Same: 11 events agree (floats within tolerance).
"""


@pytest.mark.parametrize(
    ("form", "width", "expected"),
    [
        ("text", 100, TEXT),
        ("text", 60, NARROW),
        ("markdown", 100, MARKDOWN),
        ("junit", 100, JUNIT),
        ("github", 100, GITHUB),
    ],
)
def test_a_report_of_every_kind_of_difference(form, width, expected):
    """What is set up differently first, then the first divergence, counts by kind, the worst fields, the verdict."""
    assert render(differing(), form, width=width) == expected


def test_a_report_of_a_drift():
    """A drift is reported in words."""
    assert render(drifting()) == DRIFT


def test_a_report_of_no_difference():
    """The report names the logs and the equality."""
    assert render(diff(run_of(), run_of())) == SAME
    exact = diff(run_of(), run_of(), options=DiffOptions(exact=True))
    assert render(exact).endswith("Same: 11 events agree (floats bit for bit).\n")
    github = render(diff(run_of(), run_of()), "github")
    assert github == SAME


def test_a_first_divergence_says_which_token_and_whether_the_inputs_agree():
    """The first divergence has the step, sample, codebook and position, and the expected and found token."""
    theirs = run_of()
    theirs[6]["first"]["predictions"][2] = 7
    report = render(diff(run_of(), theirs))
    assert (
        "First divergence: step 2, sample en-1 (fingerprint 0123456789abcdef), codebook 0, position 12\n"
        "  first.predictions: expected 9012, got 7\n"
        "  Inputs, labels and positions of this sample agree; its predictions differ.\n"
    ) in report


def test_json_is_one_object_with_stable_keys():
    """The JSON has the verdict and the counts, and distinguishes null from an absent value."""
    report = orjson.loads(render(differing(), "json"))
    assert list(report) == [
        "same",
        "expected",
        "got",
        "joined",
        "differing",
        "settings",
        "uncounted",
        "first",
        "counts",
        "lone",
        "worst",
        "drifts",
        "exact",
    ]
    assert report["same"] is False
    assert report["first"]["place"]["step"] == 2
    assert report["counts"] == dict(differing().counts)
    ours = records_of([train_step()])
    theirs = [{name: value for name, value in ours[0].items() if name != "text_accuracy"}]
    first = orjson.loads(render(diff(ours, theirs), "json"))["first"]
    assert first["expected"] == 0.8125
    assert "got" not in first


def test_an_unknown_format_is_refused():
    """An unknown format is refused with the nearest known format."""
    with pytest.raises(UserError, match="Did you mean json"):
        render(drifting(), "jsn")


def hostile(text):
    """Compare two runs in which every free text is a hostile text."""
    ours, theirs = run_of(), run_of()
    for records, more in ((ours, ""), (theirs, "+")):
        records[0]["config"] = {text: text + more, "x": text + more}
        records[0]["versions"] = {text: text + more}
        for record in records:
            record["run_id"] = text
        for record in records[2:7]:
            record |= {"sample_id": text, text: text + more, "fingerprint": text}
        records.append({"event": text, "rank": text, "step": 1, "value": text + more})
        records.append({"event": text + more, "rank": 0, "step": 1})
    return diff(ours, theirs)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=20) | st.sampled_from([HOSTILE, "::error::", "##[error]", "\n::warning::x", "event", "v"]))
def test_texts_from_a_log_stay_texts(text):
    """Hostile texts control neither the terminal nor the CI runner nor a parser."""
    if text in {"event", "v", "rank", "step"}:
        return
    comparison = hostile(text)
    for form in FORMATS:
        report = render(comparison, form, width=80)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", report)
    commands = [line for line in render(comparison, "github", width=80).split("\n") if line.lstrip().startswith("::")]
    assert all(re.fullmatch(r"::error title=[^:,\r\n]*::[^\r\n]*", line) for line in commands)
    assert 0 < len(commands) <= 9
    assert "##[" not in "".join(set(render(comparison, "github").split("\n")) - set(commands))
    assert ET.fromstring(render(comparison, "junit")).find("testsuite").get("tests") == "10"
    assert orjson.loads(render(comparison, "json"))["same"] is False


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=20) | st.sampled_from([HOSTILE, "a|b", "`x`", "<b>", "[x](y)", "\\|", "&lt;", "*x*", "__x__"]))
def test_markdown_shows_a_text_as_it_is(text):
    """A real Markdown parser keeps the columns of every table, and no markup comes from a log."""
    if text in {"event", "v", "rank", "step"}:
        return
    markdown_it = pytest.importorskip("markdown_it")
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(render(hostile(text), "markdown"))
    rows, row = [], 0
    for token in tokens:
        if token.type == "tr_open":
            row = 0
        row += token.type in ("td_open", "th_open")
        if token.type == "tr_close":
            rows.append(row)
    assert set(rows) <= {2, 3, 7}
    inner = [child for token in tokens for child in token.children or ()]
    markup = {child.content for child in inner if child.type == "html_inline"}
    assert markup == {"<code>", "</code>"}
    assert {child.type for child in inner} <= {"text", "html_inline", "strong_open", "strong_close", "text_special"}


def test_annotations_are_few_however_much_differs():
    """At most nine annotations are printed: differences of the setup, the first divergence, then the rest."""
    report = render(hostile("x"), "github")
    annotations = [line for line in report.split("\n") if line.startswith("::")]
    assert len(annotations) <= 9
    assert annotations[2].startswith("::error title=First divergence%3A step 1")
    assert not any("Differs:" in line for line in annotations)


def test_events_of_one_side_are_counted_by_name():
    """In every format; each JUnit failure has a body."""
    comparison = diff(run_of(), [record for record in run_of() if record.get("step") != 2])
    assert comparison.lone == {"only_in_expected": {"prediction_sample": 2, "train_step": 1}}
    for form in ("text", "markdown", "junit", "github"):
        assert "2 prediction_sample, 1 train_step" in render(comparison, form).replace("&#95;", "_"), form
    assert orjson.loads(render(comparison, "json"))["lone"] == comparison.lone
    for seen in (comparison, differing(), drifting(), hostile("x"), many_fields()):
        failures = ET.fromstring(render(seen, "junit")).findall(".//failure")
        assert failures
        assert all(failure.text for failure in failures)


def many_fields():
    """Compare two runs with one kind of difference in more fields than the report shows."""
    ours = run_of()
    ours[1] |= {f"field{number}": 1 for number in range(200)}
    theirs = copy.deepcopy(ours)
    theirs[1] |= {f"field{number}": 2 for number in range(200)}
    theirs[2]["logits_shape"][0] += 1
    theirs[1]["zeta"] = 1
    return diff(ours, theirs)


def test_kinds_of_differences_in_one_field_are_told_apart():
    """A masked label and a differing label in the same field are two rows with separate counts."""
    theirs = run_of()
    theirs[2]["last"]["labels"] = [-100, 6788, 122, 4567, 8902]
    worst = diff(run_of(), theirs).worst
    assert [(field.name, field.kind, field.differing) for field in worst] == [
        ("last.labels", "tokens", 2),
        ("last.labels", "masks", 1),
    ]


def test_long_values_are_shown_where_they_differ():
    """The equal beginning of long values is left out, so that the difference is visible."""
    ours, theirs = run_of(), run_of()
    ours[1]["note"], theirs[1]["note"] = "a" * 300 + "one" + "b" * 100, "a" * 300 + "two" + "b" * 100
    ours[2]["note"], theirs[2]["note"] = list(range(100)), list(range(99))
    report = render(diff(ours, theirs), "text", width=300)
    assert f"note: expected ...{'a' * 18}one{'b' * 53}..., got ...{'a' * 18}two{'b' * 53}..." in report
    assert "...aaone" in report.split("worst fields")[1]
    (shapes,) = diff(ours[2:], theirs[2:]).worst
    assert "94, 95" not in render(diff(ours[2:], theirs[2:]))
    assert re.search(
        r"expected 100 values \.\.\..*98,99\], got 99 \.\.\..*98\]", render(diff(ours[2:], theirs[2:]), width=300)
    )
    assert shapes.kind == "shapes"


@pytest.mark.parametrize("character", ["x", "\u202e", "م", "ñ"])
def test_a_long_name_does_not_push_the_columns_out(character):
    """A field's name is cut in the table of a terminal, escapes included."""
    ours, theirs = run_of(), run_of()
    ours[1][character * 300], theirs[1][character * 300] = 1, 2
    table = render(diff(ours, theirs), width=100).split("worst fields")[1]
    assert re.search(r"\.\.\. +1 +1 +1 +2\n", table)
    assert all(len(line) <= 100 for line in table.splitlines())
