"""Workflow of `examples/ci/`: its structure, and its steps run like on GitHub."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "ci"
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((EXAMPLE / "workflow.yml").read_text(encoding="utf-8"))
(JOB,) = WORKFLOW["jobs"].values()
RUN = {step["name"]: step["run"] for step in JOB["steps"] if "run" in step}
INSTALL, TRAIN, CHECK, COMPARE = (
    "Install",
    "Train the tiny model",
    "Check the log",
    "Compare with the golden log",
)


class Runner:
    """Checkout of the repository on a simulated GitHub machine."""

    def __init__(self, folder):
        self.checkout = folder / "checkout"
        self.summary = folder / "summary.md"
        self.summary.touch()
        shutil.copytree(EXAMPLE, self.checkout / "examples" / "ci")
        (self.checkout / ".github" / "workflows").mkdir(parents=True)
        shutil.copy(EXAMPLE / "workflow.yml", self.checkout / ".github" / "workflows" / "training-log.yml")
        bin_dir = Path(sys.executable).parent
        self.environment = (
            os.environ
            | {name: str(value) for name, value in WORKFLOW["env"].items()}
            | {
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKSPACE": str(self.checkout),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "CUDA_VISIBLE_DEVICES": "",  # as on GitHub's machines
                "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            }
        )

    def run(self, command):
        """Run commands with the shell of GitHub."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Check out the repository and run the training step."""
    runner = Runner(tmp_path_factory.mktemp("runner"))
    trained = runner.run(RUN[TRAIN])
    assert trained.returncode == 0, trained.stderr
    return runner


def test_the_workflow_has_the_shape_that_github_expects():
    """The workflow has one job with a time limit and read-only permissions."""
    assert set(WORKFLOW) == {"name", True, "permissions", "env", "jobs"}  # YAML reads `on` as true
    assert set(WORKFLOW[True]) == {"push", "pull_request"}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert set(JOB) == {"runs-on", "timeout-minutes", "steps"}
    assert all(("run" in step) != ("uses" in step) for step in JOB["steps"])
    assert list(RUN) == [INSTALL, TRAIN, CHECK, COMPARE]


def test_actions_are_pinned_and_come_from_github():
    """Each action has a version. The log is uploaded only after a failure."""
    actions = [step for step in JOB["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in actions)
    (upload,) = (step for step in actions if "upload-artifact" in step["uses"])
    assert upload["if"] == "failure()"
    assert upload["with"]["path"] in f"{RUN[TRAIN].split('--output_dir ')[1].split()[0]}/run/events/"


def test_it_installs_as_the_readme_says():
    """The README contains the lines of the installation step, because the step needs a network."""
    assert all(line in README for line in RUN[INSTALL].splitlines())


def test_the_log_is_valid_and_like_the_golden(runner):
    """The log of the training passes the check and the comparison without annotations."""
    for step in (CHECK, COMPARE):
        done = runner.run(RUN[step])
        assert done.returncode == 0, (step, done.stdout, done.stderr)
        assert "::error" not in done.stdout


def test_the_golden_is_made_as_its_readme_says(runner):
    """The command of the README writes a golden that passes the comparison."""
    (command,) = re.findall(r"```bash\n(.*?)\n```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    blessed = runner.run(command)
    assert blessed.returncode == 0, blessed.stderr
    compared = runner.run(f"GOLDEN=ci/golden.jsonl; {RUN[COMPARE]}")
    assert compared.returncode == 0, compared.stdout


def test_a_changed_token_is_annotated(runner):
    """A changed prediction gives exit status 1, an annotation with step, sample and position, and a report."""
    golden = runner.checkout / "examples" / "ci" / "golden.jsonl"
    whole = golden.read_bytes()
    records = [orjson.loads(line) for line in whole.splitlines()]
    changed = next(record for record in records if record.get("modality") == "audio" and record["step"] == 4)
    changed["last"]["predictions"][1] += 1
    try:
        golden.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
        done = runner.run(RUN[COMPARE])
    finally:
        golden.write_bytes(whole)
    assert done.returncode == 1, done.stderr
    annotations = [line for line in done.stdout.splitlines() if line.startswith("::error")]
    assert 1 <= len(annotations) <= 9
    assert "step 4" in annotations[0]
    assert changed["sample_id"] in annotations[0]
    assert str(changed["last"]["positions"][1]) in annotations[0]
    report = runner.summary.read_text(encoding="utf-8")
    assert "step 4" in report
    assert "|" in report  # a table
