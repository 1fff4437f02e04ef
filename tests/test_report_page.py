"""Tests of a report in Chromium: errors, requests, policy, accessibility, keyboard, direction, sound and print."""

import json
import os
import shutil
from importlib import resources

import numpy as np
import pytest
import soundfile

from higgs_audio_trainer.cli import main
from higgs_audio_trainer.cli.problems import ProblemPrinter
from higgs_audio_trainer.cli.report import gathered, write_page
from tests.builders import (
    audio_sample,
    diagnosis,
    eval_result,
    generation_sample,
    run_end,
    run_start,
    text_sample,
    train_step,
    window,
)
from tests.faults.hostile import HOSTILE, SCRIPTS
from tests.report_pages import write_events

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
DESK, PHONE = 1200, 390  # pixels
STEPS = range(1, 9)
HTML = "</td></style><script>document.title = 'owned'</script><img src=https://evil.example/x onerror=alert(1)>"

pytestmark = pytest.mark.skipif(
    (BROWSER is None or DRIVER is None) and "CI" not in os.environ, reason="needs chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Start one browser for all tests, with logs of its console and its requests."""
    webdriver = pytest.importorskip("selenium.webdriver") if "CI" not in os.environ else _webdriver()
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(120)  # axe takes seconds, and minutes beside a parallel test run
    yield driver
    driver.quit()


def _webdriver():
    from selenium import webdriver

    return webdriver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Write the page of a run with hostile texts and texts of many scripts, and the page of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    said = [text.encode("utf-8", "replace").decode()[:500] for text in (HTML, *HOSTILE.values(), *SCRIPTS.values())]
    hostile = [
        run_start(device=HTML),
        *(train_step(step=step, loss=9.0 / step) for step in STEPS),
        *(
            text_sample(step=step, sample_id=text, fingerprint="0123", first=_said(text), last=_said(text), text=text)
            for step, text in enumerate(said, 1)
        ),
        *(audio_sample(step=step, fingerprint="0123", **sound_of(step)) for step in STEPS),
        *(
            diagnosis(step=step, code=text, message=text, severity=severity)
            for step, (text, severity) in enumerate(zip(said[:24], ("note", "warning", "error") * 8, strict=True), 1)
        ),
        eval_result(step=8),
        *(
            generation_sample(step=step, probe=said[probe], text=said[-probe], audio="audio/speech.wav")
            for step in STEPS
            for probe in range(1, 4)
        ),
        *(text_sample(step=step, split="probe", sample_id=said[1], fingerprint="p") for step in STEPS),
        *(audio_sample(step=step, split="probe", sample_id=said[1], fingerprint="p") for step in STEPS),
        run_end(step=8, reason=HTML),
    ]
    other = [train_step(step=step, loss=9.0 / step + (step > 4)) for step in STEPS]
    (folder / "events").mkdir()
    (folder / "audio").mkdir()
    for seconds, path in enumerate(sound_of(1).values(), 1):
        soundfile.write(folder / path, np.zeros(8_000 * seconds), 8_000)
    soundfile.write(folder / "audio" / "speech.wav", np.zeros(4_000), 8_000)
    names = ("events/a.jsonl", hostile), ("b.jsonl", other)
    logs = [str(write_events(folder / name, events)) for name, events in names]
    made = {name: folder / f"{name}.html" for name in ("one", "two", "many")}
    assert main(["report", logs[0], "-o", str(made["one"])]) == 0
    assert main(["report", *logs, "-o", str(made["two"])]) == 0
    assert main(["report", *(logs * 4), "-o", str(made["many"])]) == 0
    return made


def sound_of(step):
    """Return the paths of the audio previews of a step. Only the files of step 1 exist."""
    return {f"{kind}_audio": f"audio/step-{step:06d}-sample-0-{kind}.wav" for kind in ("label", "predicted")}


def _said(text):
    return window([1, 2], [1, 3], predicted_text=text, label_text=text)


def show(browser, path, *, width=DESK, scheme="light"):
    """Open a page in a window of the given width and colour scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(path.as_uri())


@pytest.mark.parametrize("name", ["one", "two"])
def test_nothing_fails_and_nothing_is_fetched(browser, pages, name):
    """The console stays empty, the page is the only request, and no text of the log runs as a script."""
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, pages[name])
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [item["params"] for item in messages if item["method"] == "Network.requestWillBeSent"]
    of_page = [item["request"]["url"] for item in requests if item["documentURL"] == pages[name].as_uri()]
    # What the browser draws a player with is in itself, and so are the sounds in the page.
    assert [url for url in of_page if not url.startswith("data:")] == [pages[name].as_uri()]
    assert browser.get_log("browser") == []
    assert browser.title.startswith("Training report")
    assert browser.execute_script("return document.querySelectorAll('script, img, iframe, object, link').length") == 0


def test_the_policy_holds(browser, pages):
    """The policy refuses an injected script and an injected style."""
    show(browser, pages["one"])
    ran = browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script);"
        "const box = document.createElement('p'); box.setAttribute('style', 'color: rgb(1, 2, 3)');"
        "document.body.append(box); return [window.ran === true, getComputedStyle(box).color]"
    )
    assert ran[0] is False
    assert ran[1] != "rgb(1, 2, 3)"
    assert len(browser.get_log("browser")) == 2


def test_a_followed_page_loads_itself_and_keeps_the_place(browser, tmp_path):
    """The policy allows the reload, which leaves the reader where the reader was."""
    from selenium.webdriver.support.ui import WebDriverWait

    log = write_events(tmp_path / "a.jsonl", [run_start(), *(train_step(step=step, loss=9.0 / step) for step in STEPS)])
    page = tmp_path / "page.html"
    logs = gathered([str(log)], [None], ProblemPrinter())
    write_page(page, logs, [], refresh_s=1)
    show(browser, page)
    browser.get_log("browser")
    browser.execute_script("window.scrollTo({top: 700, behavior: 'instant'}); window.isOld = true")
    WebDriverWait(browser, 60, poll_frequency=0.05).until(
        lambda driver: driver.execute_script("return document.readyState === 'complete' && !window.isOld")
    )
    assert browser.execute_script("return window.scrollY") == pytest.approx(700, abs=2)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, pages, scheme):
    """Axe finds no serious problem of contrast, names, roles, headings or tables on the unfolded page of eight logs."""
    show(browser, pages["many"], scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(item => item.open = true)")
    browser.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    serious = [
        (item["id"], item["nodes"][0]["html"][:200])
        for item in found["violations"]
        if item["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 10


@pytest.mark.parametrize("name", ["one", "many"])
def test_a_phone_needs_no_scrolling_sideways(browser, pages, name):
    """Wide tables scroll by themselves on a narrow screen, also when all tables are unfolded."""
    show(browser, pages[name], width=PHONE)
    browser.execute_script("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_the_keyboard_reaches_everything(browser, pages):
    """Tab reaches every link and summary that is not folded away, and Enter unfolds a summary."""
    from selenium.webdriver.common.keys import Keys

    show(browser, pages["one"])
    found = "[...document.querySelectorAll('a, summary')].filter(item => item.checkVisibility())"
    count = browser.execute_script(f"return {found}.length")
    reached = set()
    for _ in range(3 * count):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.execute_script(f"return {found}.indexOf(document.activeElement)"))
        if len(reached - {-1}) == count:
            break
    assert reached >= set(range(count))
    folded = browser.find_element("css selector", "figure details:not([open]) summary")
    folded.send_keys(Keys.ENTER)
    assert browser.execute_script("return arguments[0].parentElement.open", folded)


def test_right_to_left_text_runs_from_right_to_left(browser, pages):
    """Decoded Arabic runs from right to left, and the table around the Arabic from left to right."""
    show(browser, pages["one"])
    directions = browser.execute_script(
        "return [...document.querySelectorAll('td.said bdi')]"
        ".filter(item => /^[\\u0590-\\u08ff]/.test(item.textContent))"
        ".map(item => [getComputedStyle(item).direction, getComputedStyle(item.closest('tr')).direction])"
    )
    assert directions
    assert all(pair == ["rtl", "ltr"] for pair in directions)


def test_sounds_can_be_played(browser, pages):
    """The policy allows the audio in the page, and the page reports missing files."""
    show(browser, pages["one"])
    browser.get_log("browser")
    loaded = (
        "const [sound, done] = [document.querySelector('.sounds audio'), arguments[0]];"
        "sound.onloadedmetadata = () => done([sound.duration, sound.getAttribute('aria-label')]);"
        "sound.onerror = () => done(sound.error.message); sound.preload = 'auto'; sound.load()"
    )
    duration, label = browser.execute_async_script(loaded)
    assert (duration, label.endswith(": predicted at step 1")) == (2, True)
    assert browser.get_log("browser") == []
    said = browser.execute_script(
        "return [...document.querySelectorAll('.sounds .note')].map(item => item.textContent)"
    )
    assert said[0].endswith("label.wav is not in this page: No such file or directory")


def test_speech_can_be_played_and_folds(browser, pages):
    """Each cell of the probes has a player and the facts; a narrow screen names the step in the cell."""
    show(browser, pages["one"])
    browser.get_log("browser")
    cell = "document.querySelector('.voice tbody td:last-child')"
    assert browser.execute_script(f"return {cell}.querySelector('audio + span').innerText") == "3.2 s of 3.4 s"
    loaded = (
        f"const [sound, done] = [{cell}.querySelector('audio'), arguments[0]];"
        "sound.onloadedmetadata = () => done(sound.duration); sound.onerror = () => done(sound.error.message);"
        "sound.preload = 'auto'; sound.load()"
    )
    assert browser.execute_async_script(loaded) == 0.5
    assert browser.get_log("browser") == []
    show(browser, pages["one"], width=PHONE)
    assert browser.execute_script(f"return {cell}.innerText").split("\n")[0] == "step 8"
    assert browser.execute_script(f"return {cell}.getBoundingClientRect().right") <= PHONE


def test_colours_follow_the_scheme(browser, pages):
    """The page is dark if the system of the reader is dark."""
    papers = []
    for scheme in ("light", "dark"):
        show(browser, pages["one"], scheme=scheme)
        papers.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(255, 255, 255)", "rgb(15, 20, 25)"]


def test_print_unfolds_the_samples(browser, pages):
    """The printed page shows the samples unfolded, and no links to sections."""
    show(browser, pages["one"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    seen = "return getComputedStyle(document.querySelector(arguments[0]), arguments[1])[arguments[2]]"
    assert browser.execute_script(seen, "nav", None, "display") == "none"
    assert browser.execute_script(seen, ".sample", "::details-content", "contentVisibility") == "visible"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
