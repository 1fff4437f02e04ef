"""The arrows of the house: who may import whom, and what starts without torch."""

import ast
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import higgs_audio_trainer.cli
import higgs_audio_trainer.diagnoses
import higgs_audio_trainer.logs
import higgs_audio_trainer.output_dir
import higgs_audio_trainer.pipeline
import higgs_audio_trainer.report
import sinks

HEAVY = ["torch", "transformers", "peft", "accelerate", "numpy"]
WITH_TORCH = {f"higgs_audio_trainer.cli.{command}" for command in ("train", "prepare", "demo", "tiny")}
GROUND = (
    "events",
    "logged_step",
    "schema",
    "errors",
    "config",
    "versions",
    "redaction",
    "atomic_file",
    "bounds",
    "decompression",
    "documents",
    "own_packages",
    "third_party_imports",
    "torchaudio_check",
    "weight_files",
    "yaml_loader",
)
PRODUCER = Path(higgs_audio_trainer.__file__).parent
GOLDEN = Path(__file__).parent.parent / "examples" / "ci" / "golden.jsonl"


def modules_of(package):
    """Name a package and all modules in it."""
    return [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]


LIGHT = [
    "schemas",
    *modules_of(sinks),
    "higgs_audio_trainer",
    *(f"higgs_audio_trainer.{name}" for name in GROUND),
    "higgs_audio_trainer.pytest_plugin",
    "higgs_audio_trainer.training.signals",
    *modules_of(higgs_audio_trainer.pipeline),
    *modules_of(higgs_audio_trainer.output_dir),
    *modules_of(higgs_audio_trainer.diagnoses),
    *modules_of(higgs_audio_trainer.logs),
    *modules_of(higgs_audio_trainer.report),
    *(name for name in modules_of(higgs_audio_trainer.cli) if name not in WITH_TORCH),
]


def imported_by(path):
    """Name what a source file imports, at its top or anywhere within."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_imported_by(path):
    """Name the top packages that a source file imports."""
    return {name.partition(".")[0] for name in imported_by(path)}


@pytest.fixture(scope="module")
def loaded():
    """Import each light module in turn, in one process, and tell which heavy ones were loaded by then."""
    script = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1].split():\n"
        "    importlib.import_module(name)\n"
        f"    print(json.dumps([name, [heavy for heavy in {HEAVY} if heavy in sys.modules]]))\n"
    )
    output = subprocess.run([sys.executable, "-c", script, " ".join(LIGHT)], check=True, capture_output=True).stdout
    return dict(json.loads(line) for line in output.splitlines())


@pytest.mark.parametrize("name", LIGHT)
def test_starts_without_torch(loaded, name):
    """A light module loads neither torch nor what brings it, nor numpy."""
    assert loaded[name] == []


def test_reading_needs_no_logging():
    """Reading a log and hiding secrets load nothing that writes one: they are for other programs too."""
    names = ["higgs_audio_trainer.redaction", "higgs_audio_trainer.logs.reader", "higgs_audio_trainer.logs.gaps"]
    script = f"import sys, {', '.join(names)}\nassert not {{*{HEAVY}, 'structlog', 'tqdm', 'sinks'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_command_runs_without_torch():
    """A command that needs no torch runs from start to end without it."""
    script = (
        "import sys\n"
        "from higgs_audio_trainer.cli import main\n"
        "assert main(['schema']) == 0\n"
        f"assert not set({HEAVY}) & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [["show", "--help"], ["diff", str(GOLDEN), str(GOLDEN)]], ids=lambda a: a[0])
def test_command_starts_fast(arguments):
    """A help loads no reader of logs, a comparison nothing that only training or a rare case of it needs."""
    slow = {"importlib.metadata", "email", "multiprocessing", "tempfile", "structlog", "tqdm", *HEAVY}
    if "--help" in arguments:
        slow |= {"orjson", "msgspec", "sinks", "higgs_audio_trainer.events"}
    script = (
        "import atexit, sys\n"
        "before = set(sys.modules)\n"
        f"atexit.register(lambda: print(*({slow} & set(sys.modules) - before), file=sys.stderr))\n"
        "from higgs_audio_trainer.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    assert done.stderr == "\n"


def test_sinks_are_imported_when_asked_for():
    """The package alone loads none of its modules, and gives each of its names as its module has it."""
    script = "import json, sys, sinks\nprint(json.dumps([name for name in sys.modules if name.startswith('sinks.')]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert json.loads(done.stdout) == []
    assert sinks.build is sinks.specification.build
    assert sinks.render is sinks.rendering.record.render
    assert all(hasattr(sinks, name) for name in sinks.__all__)
    assert not hasattr(sinks, "no_such_name")


def test_null_sink_loads_no_terminal():
    """The contract and the sinks that show nothing load neither the terminal nor the rendering of records."""
    script = (
        "import json, sys\nimport sinks.null, sinks.memory\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('sinks.') or name == 'tqdm']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert sorted(json.loads(done.stdout)) == ["sinks.memory", "sinks.null", "sinks.protocol"]


SINK_ARROWS = [("protocol.py", ()), ("terminal", ("terminal",)), ("rendering", ("protocol", "rendering", "terminal"))]


@pytest.mark.parametrize(("place", "allowed"), SINK_ARROWS, ids=str)
def test_parts_of_sinks_import_downwards(place, allowed):
    """The contract imports nothing of the package; the terminal knows no sink; rendering knows only these two."""
    root = Path(sinks.__file__).parent / place
    for path in [root] if root.is_file() else root.rglob("*.py"):
        ours = {name.split(".")[1] for name in imported_by(path) if name.startswith("sinks.")}
        assert ours <= set(allowed), path
        assert "sinks" not in imported_by(path), path


@pytest.mark.parametrize("path", sorted(Path(sinks.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_sinks_know_no_producer(path):
    """A sink imports neither the trainer nor torch: its contract is the record."""
    assert packages_imported_by(path).isdisjoint({"higgs_audio_trainer", "schemas", *HEAVY})


@pytest.mark.parametrize(
    "folder", ["extraction", "pipeline", "recording", "training", "output_dir", "data", "diagnoses", "families"]
)
def test_producers_know_no_sink(folder):
    """The modules that make, check and deliver events name no sink."""
    for path in (PRODUCER / folder).rglob("*.py"):
        assert "sinks" not in packages_imported_by(path), path


FORBIDDEN = [
    ("extraction", "training"),
    ("extraction", "recording"),
    ("extraction", "adapters"),
    ("adapters", "training"),
    ("recording", "training"),
    ("training", "adapters"),
    ("logs", "diagnoses"),
    ("report", "diagnoses"),
    ("diagnoses", "logs"),
    ("pipeline", "extraction"),
    ("data", "extraction"),
    ("data", "training"),
    ("data", "recording"),
    ("voice", "training"),
    ("voice", "recording"),
    ("checkpoint", "training"),
    ("checkpoint", "recording"),
    ("output_dir", "training"),
    *(("families", other) for other in ("training", "recording", "pipeline", "logs", "diagnoses", "voice")),
    *((folder, "families") for folder in ("data", "extraction", "logs", "diagnoses", "report", "pipeline")),
]


@pytest.mark.parametrize(("folder", "other"), FORBIDDEN, ids=lambda name: name)
def test_folder_does_not_import(folder, other):
    """A folder of the ground or of one side of the house does not import the other side."""
    for path in (PRODUCER / folder).rglob("*.py"):
        assert not [name for name in imported_by(path) if name.startswith(f"higgs_audio_trainer.{other}")], path


#: May name a family: the wing itself, planted faults of one family, and the place that patching scripts know.
NAMES_A_FAMILY = ("families/", "demo/", "__init__.py")


def test_families_are_named_in_their_wing():
    """A module outside the wing imports no family, so that another family needs no change there."""
    packages = [path.name for path in (PRODUCER / "families").iterdir() if (path / "__init__.py").is_file()]
    pattern = re.compile(rf"\bfamilies\.({'|'.join(packages)})\b")
    naming = {path.relative_to(PRODUCER).as_posix() for path in PRODUCER.rglob("*.py") if pattern.search(_code(path))}
    assert naming, "the wing names its own"
    assert {name for name in naming if not name.startswith(NAMES_A_FAMILY)} == set()


def test_no_module_asks_which_family():
    """A module outside the wing compares no family's name or type. `open_checkpoint` asks for it, once."""
    question = re.compile(
        r"family\.name\s*[!=]=|model_type\s*[!=]=|\bfamily\s*[!=]=\s*[\"']|isinstance\([^)]*[fF]amily"
    )
    allowed = ("families/", "checkpoint/base_checkpoint.py", "data/codec.py")  # a codec has a type of its own
    asking = {path.relative_to(PRODUCER).as_posix() for path in PRODUCER.rglob("*.py") if question.search(_code(path))}
    assert {name for name in asking if not name.startswith(allowed)} == set()


def _code(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GROUND)
def test_ground_imports_no_wing(name):
    """A module of the ground imports modules of the ground alone."""
    imported = {
        imported.split(".")[1]
        for imported in imported_by(PRODUCER / f"{name}.py")
        if imported.startswith("higgs_audio_trainer.")
    }
    assert imported <= set(GROUND)


def test_no_circle_among_folders():
    """The folders of the package import each other in one direction only."""
    arrows = {}
    for path in PRODUCER.rglob("*.py"):
        parts = path.relative_to(PRODUCER).parts
        if len(parts) > 1:
            names = [name.split(".") for name in imported_by(path) if name.startswith("higgs_audio_trainer.")]
            folders = {name[1] for name in names if (PRODUCER / name[1]).is_dir()}
            arrows.setdefault(parts[0], set()).update(folders - {parts[0]})
    while leaves := {folder for folder, to in arrows.items() if not to & arrows.keys()}:
        arrows = {folder: to for folder, to in arrows.items() if folder not in leaves}
    assert arrows == {}


def test_logging_any_training_loads_no_model():
    """The logger for other trainings loads neither our trainer nor the Higgs model."""
    script = (
        "import json, sys\n"
        "from higgs_audio_trainer import PredictionLogger\n"
        "print(json.dumps([name for name in sys.modules if 'higgs_audio_v2' in name or '_trainer.training' in name]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert json.loads(done.stdout) == []


def test_one_place_wires():
    """The sinks are named in the composition roots, in commands and by the pytest plugin.

    Reports borrow escapes and counts, the reading of WAV files and the frame rate of rendered speech.
    """
    naming = {path.relative_to(PRODUCER) for path in PRODUCER.rglob("*.py") if "sinks" in packages_imported_by(path)}
    assert Path("run.py") in naming
    escaping = {Path("logs/diff/reports/wording.py"), Path("logs/summary/text.py"), Path("logs/summary/speech.py")}
    escaping |= {Path(f"report/{name}.py") for name in ("assessment", "markup", "run_facts", "sounds", "voice")}
    escaping |= {Path("logs/summary/html.py")}
    roots = {Path(f"{name}.py") for name in ("run", "training_log", "training_data", "prediction_logger")}
    allowed = {*roots, Path("pytest_plugin.py"), *escaping}
    assert {path for path in naming if path.parts[0] not in ("cli", "demo")} <= allowed
    for path in escaping:
        assert not re.search(r"sinks\.(?!terminal|wav_file|rendering\.generation)", (PRODUCER / path).read_text())


def test_sinks_are_ours_wherever_they_are_imported():
    """A module that imports `sinks` at its top imports `own_packages` first, itself or by its folder."""
    for path in PRODUCER.rglob("*.py"):
        if path.name == "pytest_plugin.py":
            continue  # pytest loads the file in every project, and must leave the project's own modules alone
        tree = ast.parse(path.read_bytes())
        tops = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = [getattr(node, "module", None) or node.names[0].name for node in tops]
        ours = [index for index, name in enumerate(names) if name.partition(".")[0] in {"sinks", "schemas"}]
        folders = [PRODUCER.joinpath(*parts) for parts in _prefixes(path.relative_to(PRODUCER).parts[:-1])]
        claimed = any("own_packages" in (folder / "__init__.py").read_text() for folder in folders)
        assert not ours or claimed or "higgs_audio_trainer.own_packages" in names[: ours[0]], path


def _prefixes(parts):
    return [parts[: size + 1] for size in range(len(parts))]


def test_pipeline_knows_no_tensor():
    """Between extraction and the sinks there are builtins alone."""
    for path in [*(PRODUCER / "pipeline").rglob("*.py"), *(PRODUCER / f"{name}.py" for name in GROUND)]:
        assert packages_imported_by(path).isdisjoint(HEAVY)
