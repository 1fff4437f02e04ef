"""Tests of `report LOG...`: contents of the page, limits of its size, and escaping of the log's texts."""

import base64
import hashlib
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import orjson
import pytest
from jinja2 import nodes
from markupsafe import Markup

from benchmarks.synthetic_log import write_log
from higgs_audio_trainer.cli import main
from higgs_audio_trainer.report.follower import MOST_SAMPLES, MOST_SERIES, MOST_VIEWS, SampleFollower
from higgs_audio_trainer.report.gather import MOST_CODEBOOKS, MOST_DIAGNOSES, chart_series
from higgs_audio_trainer.report.markup import environment, text
from higgs_audio_trainer.report.scale import Axis, axis_of, number
from higgs_audio_trainer.report.sounds import LONGEST_FILE, AudioEmbedder, EmbeddedAudio
from higgs_audio_trainer.report.voice import MOST_PROBES, MOST_STEPS
from tests.builders import (
    audio_sample,
    diagnosis,
    eval_result,
    generation_sample,
    record_of,
    run_end,
    run_start,
    text_sample,
    train_step,
    window,
)
from tests.faults.hostile import HOSTILE, RIGHT_TO_LEFT, SCRIPTS
from tests.report_pages import write_events

VOID = {"meta", "br"}
KNOWN = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "section",
        "h1",
        "h2",
        "h3",
        "div",
        "p",
    ),
    *("a", "ul", "ol", "li", "dl", "dt", "dd", "figure", "figcaption", "details", "summary", "span", "i", "b", "bdi"),
    *(
        "br",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
        "pre",
        "q",
        "strong",
        "svg",
        "g",
        "path",
        "text",
        "circle",
        "rect",
    ),
}


class Page(HTMLParser):
    """Elements and texts of a page. Each element must be closed."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.source, self.open, self.elements, self.texts = source, [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return "\n".join(self.texts)


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Return a function that writes events as logs and returns the page of the logs."""
    monkeypatch.chdir(tmp_path)

    def made(*logs):
        names = [
            str(write_events(tmp_path / f"{letter}.jsonl", events))
            for letter, events in zip("abcdefgh", logs, strict=False)
        ]
        assert main(["report", *names, "-o", "page.html"]) == 0
        capsys.readouterr()
        return Page((tmp_path / "page.html").read_text("utf-8"))

    return made


RUN = [
    run_start(),
    *(make(step=step) for step in (1, 2, 3) for make in (train_step, text_sample, audio_sample)),
    diagnosis(step=2, code="collapsed", severity="error", message="one token everywhere", evidence={}),
    eval_result(step=3),
    run_end(step=3),
]


def test_the_page_has_every_part(report):
    """The page has all sections, and each section shows the values of the log."""
    page = report(RUN)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {"curves", "codebooks", "heat", "diagnoses", "samples", "optimizer", "cost", "left-out"} <= ids
    for said in ("completed at step 3", "one token everywhere", "en-1", "*7890", "7891", "Every logged step is drawn."):
        assert said in page.text
    drawn = [attributes.get("aria-label", "") for name, attributes in page.elements if name == "svg"]
    assert (
        "Audio loss (nats). Training: 3.301 at step 1, 3.301 at step 3. Evaluation: 3.5 at step 3. Chance: 6.933."
        in drawn
    )
    assert "4.5 ms of 631.2 ms in the logged steps (0.7%); " in page.text


def test_every_drawing_is_named(report):
    """Each drawing has a description for screen readers, or is hidden from screen readers as decoration."""
    drawings = [attributes for name, attributes in report(RUN).elements if name == "svg"]
    assert len(drawings) > 10
    assert all(attributes.get("aria-hidden") or attributes["aria-label"] for attributes in drawings)
    assert any("codebook 0: 3 at step 1, 3 at step 3." in item.get("aria-label", "") for item in drawings)


def test_headings_and_targets_of_links(report):
    """Every link leads to an element of the page, and ids are unique."""
    page = report(RUN, RUN)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_the_policy_allows_the_style_alone(report):
    """The policy has the hash of the style sheet. The page has no script, no inline style and no external resource."""
    page = report(RUN)
    (policy,) = (item["content"] for name, item in page.elements if item.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sources = f"default-src 'none'; style-src 'sha256-{digest}'; media-src data:"
    assert policy == f"{sources}; base-uri 'none'; form-action 'none'"
    assert "url(" not in style
    assert "@import" not in style
    names = {name for _, attributes in page.elements for name in attributes}
    assert names.isdisjoint({"style", "src", "srcset", "xlink:href", "action"})
    assert not [name for name in names if name.startswith("on")]


MARKUP = {
    "script": "</style></title><script>alert(1)</script>",
    "attribute": "\"'><img src=x onerror=alert(1)>",
    "comment": "<!-- --!><svg onload=alert(1)>",
    "entity": "&lt;b&gt; &#0; &amp",
    "CDATA": "]]><![CDATA[<a href=javascript:alert(1)>",
}


@pytest.mark.parametrize("name", [*HOSTILE, *MARKUP])
def test_hostile_texts_stay_text(report, name):
    """Texts of the log make no elements, and the page has no control characters and no bidirectional marks."""
    hostile = (HOSTILE | MARKUP)[name][:2_000].encode("utf-8", "replace").decode()
    end = window([1, 2], [1, 3], predicted_text=hostile, label_text=hostile)
    page = report(
        [
            run_start(device=hostile),
            train_step(),
            text_sample(sample_id=hostile, fingerprint=hostile, first=end),
            generation_sample(probe=hostile, text=hostile, audio=hostile),
            text_sample(split="probe", sample_id=hostile, fingerprint=hostile, first=end, text=hostile),
            diagnosis(code=hostile, message=hostile, evidence={}),
            run_end(reason=hostile),
        ]
    )
    assert {name for name, _ in page.elements} <= KNOWN
    bad = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]"
    assert re.findall(bad, page.source) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_passes(report, name):
    """Decoded text is unchanged, in an element with a direction of its own."""
    said = SCRIPTS[name]
    page = report([text_sample(first=window([1], [2], predicted_text=said, label_text=said))])
    assert f'<bdi dir="auto">{text(said)}</bdi>' in page.source
    if name in RIGHT_TO_LEFT:
        assert said in page.texts


def test_templates_escape_printed_values():
    """Texts in elements and attributes are escaped; only `Markup` is printed as it is."""
    template = environment().from_string('<p title="{{ title }}">{{ given }}{{ made }}</p>')
    made = template.render(title="\"'<", given="<b>\x1b\u202e", made=Markup("<b>&amp;</b>"))
    assert made == '<p title="&#34;&#39;&lt;">&lt;b&gt;\\x1b\\u202e<b>&amp;</b></p>'


def test_templates_print_values_one_by_one():
    """Templates have no filter and no operator that makes markup of a text before the text is escaped."""
    names = environment().list_templates(extensions=["jinja"])
    assert len(names) >= 3
    for name in names:
        tree = environment().parse(environment().loader.get_source(environment(), name)[0])
        filters = {node.name for node in tree.find_all(nodes.Filter)}
        assert filters <= {"text", "number", "share", "length", "list", "int", "round", "sort", "sum", "selectattr"}
        assert list(tree.find_all((nodes.Concat, nodes.MarkSafe, nodes.ScopedEvalContextModifier))) == []


def test_a_spike_is_never_thinned_away(report):
    """A spike at one step of thousands stays on the page."""
    page = report([train_step(step=step, loss=99.5 if step == 1_777 else 2.0) for step in range(1, 3_001)])
    assert "2 to 99.5" in page.text
    assert "stands for up to 32 neighbouring logged steps" in page.text


def test_values_that_are_not_finite_are_marked(report):
    """A NaN is a cross in the chart and "not finite" in the table."""
    page = report([train_step(step=step, loss=math.nan if step == 2 else 2.0) for step in (1, 2, 3)])
    assert sum(attributes.get("class") == "broken" for _, attributes in page.elements) == 1
    assert "1 not finite" in page.text


def test_the_follower_keeps_samples_that_are_seen_often():
    """Samples that are seen once are dropped; samples that are seen often stay, with the first and the last view."""
    follower = SampleFollower()
    for step in range(1, 1_001):
        follower.add(text_sample(step=step, fingerprint=f"{step:016x}"))
        follower.add(text_sample(step=step, fingerprint="again"))
        follower.add(text_sample(step=step, fingerprint="evaluated", split="eval"))
    assert len(follower.samples) == MOST_SAMPLES + 1
    (again,) = (sample for sample in follower.samples if sample.fingerprint == "again")
    (series,) = again.series.values()
    steps = [view.step for view in series.items]
    assert (steps[0], steps[-1], series.count) == (1, 1_000, 1_000)
    assert len(steps) <= MOST_VIEWS
    assert len({later - step for step, later in pairwise(steps[:-1])}) == 1


def test_a_sample_of_several_ranks():
    """A sample that several ranks log at the same step counts once."""
    follower = SampleFollower()
    for step in (1, 2):
        for _rank in range(2):
            follower.add(audio_sample(step=step))
    (sample,) = follower.samples
    assert sample.seen == 2


def test_labels_that_change_are_shown_again(report):
    """The table repeats the labels only where the labels change."""
    same, other = window([1, 2], [1, 3]), window([4, 5], [4, 5])
    page = report([text_sample(step=step, first=same if step < 3 else other) for step in (1, 2, 3)])
    assert sum(attributes.get("class") == "labels" for _, attributes in page.elements) == 2


def test_numerous_parts_are_limited(report):
    """Codebooks, samples, series, diagnoses, slots and texts are limited, and the page reports what is left out."""
    many = tuple(float(index) for index in range(100))
    wide = window(range(3_000), predicted_text="x" * 10_000, label_text="y" * 10_000)
    page = report(
        [
            train_step(audio_loss_per_codebook=many, audio_accuracy_per_codebook=(0.5,) * 100),
            *(audio_sample(codebook=index, first=wide, last=wide) for index in range(60)),
            *(text_sample(fingerprint=f"{index}", first=wide, last=wide) for index in range(20)),
            *(diagnosis(code=f"code-{index}", severity="note") for index in range(300)),
            diagnosis(code="the-worst", severity="error"),
        ]
    )
    assert len(page.source) < 1_000_000
    assert f"{100 - MOST_CODEBOOKS} codebooks beyond {MOST_CODEBOOKS} are left out." in page.text
    assert f"{60 - MOST_SERIES} events of further codebooks are left out here." in page.text
    assert f"{301 - MOST_DIAGNOSES} more are left out" in page.text
    assert "the-worst" in page.text
    assert "and 2990 more" in page.text


def test_a_long_log_makes_a_small_page_in_little_memory(tmp_path):
    """Ten times the events need no more memory, and the page stays below a megabyte."""
    peaks, sizes = [], []
    for events in (5_000, 50_000):
        log = write_log(tmp_path / str(events), events)
        target = tmp_path / f"{events}.html"
        script = (
            "import resource, sys\nfrom higgs_audio_trainer.cli import main\n"
            "status = main(sys.argv[1:])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\nsys.exit(status)"
        )
        command = [sys.executable, "-c", script, "report", str(log), "-o", str(target)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
        peaks.append(int(done.stdout.split()[-1]))
        sizes.append(target.stat().st_size)
    assert max(peaks) < 1.2 * min(peaks)
    assert max(sizes) < 1_000_000


def test_two_logs_stand_beside_each_other(report):
    """Two logs are lines of the same charts, and the first difference is reported and marked at its step."""
    other = [train_step(step=2, loss=9.0) if event == train_step(step=2) else event for event in RUN]
    page = report(RUN, other)
    assert "step 2, train_step: loss: expected 4.13217, got 9" in page.text
    marked = [attributes for _, attributes in page.elements if attributes.get("class") == "divergence"]
    assert len(marked) >= 4
    assert page.text.count("first difference: step 2") == len(marked)
    assert page.texts.count("Audio loss (nats)") == 1
    (drawing,) = (
        item["aria-label"] for _, item in page.elements if item.get("aria-label", "").startswith("Total loss")
    )
    assert "A: training: 4.132 at step 1" in drawing
    assert "B: training: 4.132 at step 1" in drawing


def test_up_to_eight_logs(report, tmp_path, capsys):
    """Eight runs have a letter, a colour and dashes each, a row of figures, and a comparison with the first run."""
    runs = [
        [
            run_start(config={"lr": 1e-4 * (1 + run % 2), "log_steps": 5}),
            *(train_step(step=step, audio_loss=9.0 / step + run) for step in (1, 2, 3)),
            audio_sample(logits_shape=(20, 8, 1026)),
            eval_result(step=2, audio_loss=6.0 - 0.5 * run),
        ]
        for run in range(8)
    ]
    page = report(*runs)
    assert "Training report: 8 runs" in page.texts
    assert "H: numbers, state, model and data" in page.texts
    headlines = [item["class"] for name, item in page.elements if item.get("class", "").startswith("headline")]
    # The losses of A to D end at 3 to 6, and those of E to H at chance, which is 6.93, or above.
    assert headlines == ["headline good"] * 4 + ["headline warning"] * 4
    classes = [item.get("class", "") for name, item in page.elements if name == "path"]
    assert all(f"line l{run} training" in classes and f"line l{run} evaluation" in classes for run in range(8))
    named = [item.get("aria-label", "") for name, item in page.elements if name == "svg"]
    (drawing,) = (name for name in named if name.startswith("Audio loss (nats). "))
    assert "H: training: 16 at step 1, 10 at step 3. H: evaluation: 2.5 at step 2." in drawing
    assert drawing.endswith(" Chance: 6.933.")
    assert page.text.count("First difference: ") == 7
    row = page.texts[page.texts.index(f"H: {tmp_path / 'h.jsonl'}", page.texts.index("best evaluation")) :]
    assert [text for text in row if text.strip()][1:4] == ["10", "0.8312", "2.5 at step 2"]
    assert "log_steps" not in page.texts[: page.texts.index("First difference, event by event")][-80:]
    assert [text for text in page.texts if text == "lr"]
    names = ["a.jsonl"] * 9
    assert main(["report", *names, "-o", "nine.html"]) == 2
    assert "expected at most 8 logs, got 9. Leave some out" in capsys.readouterr().err
    assert not (tmp_path / "nine.html").exists()


def test_letters_of_runs_do_not_overlap(report):
    """The letters at the ends of equal lines stand one below the other."""
    page = report(*[[train_step(step=step, audio_loss=4.0 / step) for step in (1, 2)]] * 3)
    letters = [item for name, item in page.elements if name == "text" and "letter" in item.get("class", "")]
    first = [(float(item["x"]), float(item["y"])) for item in letters[:3]]
    assert len({x for x, _ in first}) == 1
    heights = sorted(y for _, y in first)
    assert all(below - above == pytest.approx(11) for above, below in pairwise(heights))


def test_cost_and_omissions_are_folded_away(report):
    """Cost and omissions are in closed details at the end of the page."""
    page = report(RUN)
    folded = [item for name, item in page.elements if name == "details" and item.get("class") == "section"]
    assert folded == [{"class": "section"}] * 2
    sections = [item["id"] for name, item in page.elements if name == "section"]
    assert sections[-2:] == ["cost", "left-out"]


def test_heat_spans_the_values_of_the_log(report):
    """The lightest and the darkest shade of accuracy are at the lowest and the highest accuracy, not at 0 and 100 %."""
    steps = [train_step(step=step, audio_accuracy_per_codebook=(0.02 * step, 0.01)) for step in (1, 2, 3)]
    page = report(steps)
    assert "1% to 1.625%" in page.text
    assert "5.375% to 6%" in page.text
    assert "87.5% to 100%" not in page.text


def sentences_of(page):
    """Return the sentences in the headings of the samples."""
    return re.findall(r'<summary>.*<q><bdi dir="auto">(.*)</bdi></q>, in ', page.source)


@pytest.mark.parametrize("split", ["train", "eval", "probe"])
def test_samples_have_the_sentence_that_is_spoken(report, split):
    """The heading of each sample has its sentence, with a direction of its own."""
    said = SCRIPTS["Arabic"]
    sample = {"split": split, "text": said}
    page = report([run_start(), text_sample(**sample), audio_sample(**sample), audio_sample(step=30, **sample)])
    assert sentences_of(page) == [text(said)]


def test_a_log_without_texts_has_the_sentences_of_its_speech(report):
    """Samples of an older log, or of a log without texts, have a sentence if the model speaks the samples too."""
    older = [record_of(event) for event in (audio_sample(sample_id="p-1"), audio_sample(fingerprint="ab"))]
    for record in older:
        del record["text"]
    page = report([run_start(), *older, generation_sample(probe="p-1", text="Good night.")])
    assert sentences_of(page) == ["Good night."]


def test_a_sample_has_its_own_sentence(report):
    """A probe of another text with the same id does not matter, nor does an attempt whose log had no texts."""
    speech = generation_sample(probe="en-1", text="Another sentence.")
    page = report([run_start(), speech, text_sample(step=10), text_sample(text="Good\nnight. " + "a" * 300)])
    assert sentences_of(page) == ["Good night. " + "a" * 188 + "..."]


def test_two_runs_share_the_sentence(report):
    """A sample of two logs has the sentence of the log that has one."""
    page = report([run_start(), text_sample()], [run_start(), text_sample(text="Good night.")])
    assert sentences_of(page) == ["Good night."]


def test_standard_input_of_a_resumed_run(report, tmp_path, monkeypatch):
    """Start and end are those of the last attempt, also where the attempts are not known before."""
    records = []
    for attempt, (resumed, step) in enumerate([(None, 2), (2, 4)]):
        start = run_start(resumed_from_step=resumed, total_steps=2 + 2 * attempt)
        end = run_end(step=step, reason="completed" if attempt else "SIGTERM")
        events = [start, train_step(step=step), end]
        records += [record_of(event) | {"attempt": attempt, "seq": seq} for seq, event in enumerate(events)]
    log = b"".join(orjson.dumps(record) + b"\n" for record in records)
    with (tmp_path / "log").open("w+b") as file:
        file.write(log)
        file.seek(0)
        done = subprocess.run(
            [sys.executable, "-m", "higgs_audio_trainer", "report", "-", "-o", "page.html"], check=True, stdin=file
        )
    assert done.returncode == 0
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    assert "completed at step 4 of 4" in page.texts
    assert "The log has 6 events and 2 logged steps." in page.text


def test_two_logs_that_are_the_same(report):
    """The page of two equal logs reports that nothing differs, and has no mark."""
    page = report(RUN, RUN)
    assert "Same: " in page.text
    assert not [attributes for _, attributes in page.elements if attributes.get("class") == "divergence"]


def test_two_logs_with_nothing_in_common(report):
    """Logs without common events are drawn, and the page reports why the logs were not compared."""
    page = report([train_step(step=1)], [train_step(step=2)])
    assert "A and B could not be compared. diff: expected events in both logs, got no common event." in page.text


def test_a_log_of_one_event(report):
    """Sections without data are left out."""
    page = report([run_start()])
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert "curves" not in ids
    assert "no end in the log" in page.text


def test_sounds_of_a_run(report, tmp_path):
    """WAV files of the run are in the page. Other files are not read, and the page reports why."""
    (tmp_path / "audio").mkdir()
    sound = b"RIFF\x00\x00\x00\x00WAVE" + bytes(100)
    for name in ("a.wav", "b.wav", "big.wav"):
        (tmp_path / "audio" / name).write_bytes(sound)
    with (tmp_path / "audio" / "big.wav").open("ab") as file:
        file.truncate(LONGEST_FILE + 1)
    (tmp_path / "audio" / "text.wav").write_text("no sound at all")
    (tmp_path / "secret.wav").write_bytes(sound)
    (tmp_path / "audio" / "link.wav").symlink_to(tmp_path / "secret.wav")
    os.mkfifo(tmp_path / "audio" / "pipe.wav")
    said = {
        "audio/gone.wav": "No such file or directory",
        "audio/big.wav": "1.5 MB, the limit of a file is 1.5 MB",
        "audio/text.wav": "not a WAV file",
        "audio/pipe.wav": "not a regular file",
        "audio/link.wav": "Too many levels of symbolic links",
        "../secret.wav": "not a file of the run's audio folder",
        "audio/../secret.wav": "not a file of the run's audio folder",
        str(tmp_path / "secret.wav"): "not a file of the run's audio folder",
        "audio/\0.wav": "embedded null byte",
    }
    looks = [
        audio_sample(step=step, fingerprint=str(number), predicted_audio=link, label_audio="audio/a.wav")
        for number, link in enumerate(("audio/b.wav", *said))
        for step in (1, 2)
    ]
    page = report([run_start(), *looks])
    assert "audio" not in {name for name, _ in page.elements}  # a log that lies by itself has no such files
    (tmp_path / "events").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "events" / "a.jsonl")
    embedder = AudioEmbedder()
    for link, why in said.items():
        assert embedder.embed(tmp_path, link) == EmbeddedAudio(link, problem=why)
    assert main(["report", "events/a.jsonl", "-o", "page.html"]) == 0
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    players = [attributes for name, attributes in page.elements if name == "audio"]
    assert base64.b64decode(players[1]["src"].partition(",")[2]) == sound
    assert players[1]["aria-label"] == f"{looks[0].sample_id}: predicted at step 1"


def test_a_linked_folder_of_sounds_is_not_followed(tmp_path):
    """A symbolic link cannot bring audio of another folder into the page."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    run = tmp_path / "run"
    (run / "events").mkdir(parents=True)
    (run / "audio").symlink_to(elsewhere)
    audio = AudioEmbedder().embed(run, "audio/a.wav")
    assert (audio.source, audio.problem) == (None, "the audio folder is a symbolic link")
    samples = [audio_sample(step=step, predicted_audio="audio/a.wav", label_audio="audio/a.wav") for step in (1, 2)]
    write_events(run / "events" / "rank00000-attempt000.jsonl", [run_start(), *samples])
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<code>audio/a.wav</code> is not in this page: the audio folder is a symbolic link" in page
    assert "data:audio" not in page


def test_audio_of_a_page_is_limited(tmp_path):
    """Audio of a page is limited, and the page reports files without room."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE" + bytes(LONGEST_FILE - 12))
    embedder = AudioEmbedder()
    found = [embedder.embed(tmp_path, "audio/a.wav") for _ in range(3)]
    assert [audio.source is not None for audio in found] == [True, False, False]
    assert "no room left" in found[2].problem


def test_a_model_of_text_has_no_audio(report):
    """The page of a text model has no lines, panels or sections for audio."""
    step = {"audio_loss_per_codebook": (), "audio_accuracy_per_codebook": (), "audio_targets": 0, "audio_loss": 0.0}
    page = report([run_start(num_codebooks=0, modalities=("text",)), train_step(**step), text_sample()])
    assert "audio" not in page.text
    assert "codebook" not in page.text
    assert not any(attributes.get("id") == "heat" for _, attributes in page.elements)


def test_a_golden_has_no_times(report, tmp_path, capsys):
    """A golden, which has no volatile fields, makes a page without times."""
    write_events(tmp_path / "run.jsonl", RUN)
    assert main(["diff", "--bless", str(tmp_path / "golden.jsonl"), str(tmp_path / "run.jsonl")]) == 0
    assert main(["report", str(tmp_path / "golden.jsonl"), "-o", str(tmp_path / "golden.html")]) == 0
    page = Page((tmp_path / "golden.html").read_text("utf-8"))
    assert "the log has no times." in page.text
    assert "last event" not in page.text


def test_damaged_lines_are_counted_on_the_page_and_on_stderr(tmp_path, capsys):
    """A damaged line hides no other line."""
    log = write_events(tmp_path / "a.jsonl", RUN)
    log.write_bytes(log.read_bytes() + b'{"event": "train_st\n')
    assert main(["report", str(log), "-o", str(tmp_path / "page.html")]) == 0
    assert "1 damaged line was skipped" in Page((tmp_path / "page.html").read_text("utf-8")).text
    assert "a.jsonl:" in capsys.readouterr().err


def test_the_command_replaces_its_own_page_and_nothing_else(tmp_path, capsys):
    """The command replaces an earlier report, but no log, folder or other file, and leaves no temporary file."""
    log = write_events(tmp_path / "a.jsonl", RUN)
    page, before = tmp_path / "page.html", log.read_bytes()
    assert [main(["report", str(log), "-o", str(page)]) for _ in range(2)] == [0, 0]
    other = tmp_path / "other.html"
    other.write_text("mine")
    for target, got in ((log, "twice"), (other, "got another file"), (tmp_path, "got something else")):
        capsys.readouterr()
        assert main(["report", str(log), "-o", str(target)]) == 2
        assert got in capsys.readouterr().err
    assert (log.read_bytes(), other.read_text()) == (before, "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "other.html", "page.html"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl"], "missing.jsonl"),
        (["a.jsonl", "missing.jsonl"], "missing.jsonl"),
        (["empty.jsonl"], "got a log without events"),
        (["a.jsonl", "-"], "got standard input (-)"),
        (
            ["a.jsonl", "-o", "no/such/folder/page.html"],
            "no/such/folder/page.html: No such file or directory. Name another file with -o",
        ),
        ([], "LOG"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, said):
    """Bad input exits with status 2 and a message, and writes no page."""
    monkeypatch.chdir(tmp_path)
    write_events(tmp_path / "a.jsonl", RUN)
    (tmp_path / "empty.jsonl").touch()
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.0, 15.2), (-3.0, 0.7), (1, 60), (1e-9, 4e-4), (-1e30, 1e30), (5, 5)]
)
def test_ticks_are_round_and_few(low, high):
    """Ticks are on the axis, and 1, 2, 2.5 or 5 times a power of ten apart."""
    ticks = Axis(low, high).ticks(5)
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in ticks)
    steps = {f"{later - tick:.0e}" for tick, later in pairwise(ticks)}
    assert len(steps) <= 1


def test_an_axis_holds_all_its_series():
    """An axis spans the values, from a round number to a round number, and a near chance level; shares stay shares."""
    series = chart_series()
    for step, value in enumerate((3.2, 14.4, 7.0)):
        series.add(step, value)
    assert axis_of([series]) == Axis(2.5, 15.0)
    assert axis_of([series], near=16.0) == Axis(0.0, 20.0)
    assert axis_of([series], near=30.0) == Axis(2.5, 15.0)
    full = chart_series()
    full.add(1, 1.0)
    assert (axis_of([full], is_share=True).low, axis_of([full], is_share=True).high) == (pytest.approx(0.9), 1.0)
    assert axis_of([]).high > axis_of([]).low


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "-"), (0.0, "0"), (3.36400001, "3.364"), (1234567, "1,234,567"), (1e-9, "1e-09"), (12345.6, "12,346")],
)
def test_numbers_are_short(value, written):
    """Numbers have about four digits."""
    assert number(value) == written


def speech(step, probe="p-1", **changes):
    """Make the speech of a probe, with the path of its audio."""
    return generation_sample(step=step, probe=probe, audio=f"audio/step-{step:06d}-probe-{probe}.wav", **changes)


def sound(folder, link, size=100):
    """Write a WAV file."""
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(size))


@pytest.fixture
def voiced(tmp_path, monkeypatch, capsys):
    """Return a function that writes events as the log of an output directory and returns the page of the log."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").mkdir()

    def made(events):
        write_events(tmp_path / "events" / "rank00000-attempt000.jsonl", events)
        assert main(["report", str(tmp_path), "-o", "page.html"]) == 0
        capsys.readouterr()
        return Page((tmp_path / "page.html").read_text("utf-8"))

    return made


def players(page):
    """Return the labels of the players of a page."""
    return [attributes["aria-label"] for name, attributes in page.elements if name == "audio"]


def test_the_report_opens_with_voice_and_probes(voiced, tmp_path):
    """A row a probe, a column a step, a player in each cell; the recording's own sound where the log links one."""
    samples = [
        audio_sample(step=step, split="probe", sample_id="p-1", fingerprint="p", label_audio="audio/label.wav", **more)
        for step, more in ((10, {}), (20, {"num_correct": 12, "accuracy": 1.0}))
    ]
    events = [
        run_start(),
        *(event for step in (10, 20) for event in (train_step(step=step), speech(step), speech(step, "p-2"))),
        *samples,
        speech(30, stopped=False, frames=170, cer=0.25),  # follows the events of no later step
    ]
    for link in ("audio/label.wav", *(f"audio/step-{step:06d}-probe-p-1.wav" for step in (10, 20, 30))):
        sound(tmp_path, link)
    page = voiced(events)
    sections = [item["id"] for name, item in page.elements if name == "section"]
    assert sections[:3] == ["voice", "probes", "curves"]
    assert players(page) == ["p-1: recording", *(f"p-1 at step {step}" for step in (10, 20, 30))]
    assert "2 sounds are not in this page: No such file or directory" in page.text
    for said in (
        "3.2 s of 3.4 s",
        "stopped by itself",
        "50.0% as recorded",
        "6.8 s of 3.4 s",
        "did not stop",
        "CER 25.0%",
    ):
        assert said in page.texts
    assert "p-1: 83.3% at step 10, 100.0% at step 20." in str(page.elements)
    assert "in 2 logged steps of the probes" in page.text


def test_late_speech_stands_at_its_own_step(voiced):
    """Speech that follows later steps has the column of its own step, in the order of steps."""
    page = voiced([run_start(), train_step(step=10), train_step(step=20), speech(10), speech(20)])
    assert [text for text in page.texts if re.fullmatch(r"step \d+", text)][:2] == ["step 10", "step 20"]


def test_many_steps_and_probes_are_limited(voiced, tmp_path):
    """The first, the last and evenly spaced steps are shown; the last step gets the room for sounds first."""
    steps = range(10, 1_010, 10)
    for step in steps:
        sound(tmp_path, f"audio/step-{step:06d}-probe-p-1.wav", 900_000)
    page = voiced([run_start(), *(speech(step, f"p-{probe}") for step in steps for probe in range(1, MOST_PROBES + 3))])
    shown = [
        int(text.removeprefix("step ").replace(",", "")) for text in page.texts if re.fullmatch(r"step [\d,]+", text)
    ]
    assert (min(shown), max(shown), len(set(shown)) <= MOST_STEPS) == (10, 1_000, True)
    assert f"{len(steps) - len(set(shown))} of 100 steps are left out, evenly" in page.text
    assert players(page) == ["p-1 at step 10", "p-1 at step 1,000"]
    assert "not in this page: no room left, the limit of a page is 2.5 MB of audio" in page.text
    assert "200 events of further probes are left out." in page.text
