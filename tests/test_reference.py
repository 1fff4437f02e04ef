"""The reference pages of `docs/`: generated from the code of today, with a page for each code of the checks."""

import re
import runpy

import pytest

import higgs_audio_trainer
import sinks
from tests.readme import PAGES, ROOT

GENERATED = runpy.run_path(str(ROOT / "docs/make_reference.py"))["PAGES"]
CODE = re.compile(r'^(?!.*>>>).*(?:finding\(\s*|code=)"([a-z_]+)"', re.MULTILINE)
SOURCES = [*(ROOT / "higgs_audio_trainer/diagnoses").glob("*.py"), ROOT / "higgs_audio_trainer/prediction_logger.py"]
CODES = sorted({code for path in SOURCES for code in CODE.findall(path.read_text("utf-8"))})


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_that_of_today(name):
    """A new flag, event or field is on the page. `python docs/make_reference.py` writes the page again."""
    assert PAGES[f"docs/reference/{name}"] == GENERATED[name]()


def test_the_python_reference_has_every_public_name():
    """The page documents the names that the packages list, and no other."""
    documented = re.findall(r"^::: (.+)$", PAGES["docs/reference/python.md"], re.MULTILINE)
    public = [f"{package.__name__}.{name}" for package in (higgs_audio_trainer, sinks) for name in package.__all__]
    assert sorted(documented) == sorted(public)


def test_every_code_has_a_page():
    """Each code that a check can write has a page and a row in the overview, and no other has."""
    pages = sorted(page.removeprefix("docs/diagnose/").removesuffix(".md") for page in PAGES if "/diagnose/" in page)
    assert [page for page in pages if page != "index"] == CODES
    table = re.findall(r"^\| (\[.*?) \| ", PAGES["docs/diagnose/index.md"], re.MULTILINE)
    assert sorted(re.findall(r"\[`([a-z_]+)`\]\(\1\.md\)", "".join(table))) == CODES


@pytest.mark.parametrize("code", CODES)
def test_a_page_of_a_code_says_what_to_do(code):
    """Each page has a severity, a cause and what to do."""
    page = PAGES[f"docs/diagnose/{code}.md"]
    assert page.startswith(f"# `{code}`\n\nSeverity: ")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE)[:2] == ["Usual cause", "What to do"]


def test_the_page_of_a_planted_mistake_names_the_demo():
    """The page of a code that the demo can show says how, for each planted mistake."""
    from higgs_audio_trainer.demo.faults import FAULTS

    for name, fault in FAULTS.items():
        for code in {fault.found_by, fault.heard_by} - {None}:
            assert f"`higgs-audio-trainer demo --fault {name}`" in PAGES[f"docs/diagnose/{code}.md"], (name, code)
