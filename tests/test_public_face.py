"""The public face: names, signatures and examples. A change of the golden file is a change for users.

`python -m tests.test_public_face > tests/goldens/public_face.txt` writes the golden file anew.
"""

import ast
import inspect
import re
from enum import Enum
from pathlib import Path
from textwrap import dedent
from typing import get_args

import pytest

import higgs_audio_trainer
import sinks
from tests.readme import PAGES, ROOT

GOLDEN = Path(__file__).parent / "goldens" / "public_face.txt"
PACKAGES = (higgs_audio_trainer, sinks)
FACES = {package.__name__: package for package in PACKAGES}
NAMES = [(package.__name__, name) for package in PACKAGES for name in package.__all__]
#: Constants and type aliases have no docstring of their own.
WITHOUT_DOCSTRING = {"EVENTS", "Event", "Record", "SinkFactory"}


def described(package, name):
    """Yield a line for a public name, and a line for each public method of a class."""
    value = getattr(package, name)
    full = f"{package.__name__}.{name}"
    if isinstance(value, dict):
        yield f"{full}: {', '.join(value)}"
    elif get_args(value):
        yield f"{full}: alias"
    elif inspect.isclass(value) and issubclass(value, Enum):
        yield f"{full}: {', '.join(member.name for member in value)}"
    else:
        yield f"{full}{signature(value)}"
    if inspect.isclass(value):
        for member, of in sorted(vars(value).items()):
            if not member.startswith("_") and (callable(of) or isinstance(of, (property, classmethod))):
                yield f"{full}.{member}" + (": property" if isinstance(of, property) else signature(of))


def signature(value):
    """Return a signature without the objects' addresses."""
    try:
        text = str(inspect.signature(value.__func__ if isinstance(value, classmethod) else value))
    except ValueError:
        return "(...)"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def public_face():
    """Return the lines of the golden file."""
    return [line for package in PACKAGES for name in package.__all__ for line in described(package, name)]


def test_every_event_is_public():
    """A reader of logs tests events by their classes."""
    assert {event.__name__ for event in higgs_audio_trainer.EVENTS.values()} <= set(higgs_audio_trainer.__all__)


def test_public_face_is_the_golden_one():
    """No public name or signature changes unseen."""
    assert public_face() == GOLDEN.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("package", "name"), [pair for pair in NAMES if pair[1] not in WITHOUT_DOCSTRING])
def test_each_name_has_an_example(package, name):
    """The docstring of each public function and class shows an example; `test_doctests` runs it."""
    assert ">>> " in (inspect.getdoc(getattr(__import__(package), name)) or "")


def test_names_are_listed():
    """`dir` lists the public names, and an unknown name is an error."""
    for package in PACKAGES:
        assert set(package.__all__) <= set(dir(package))
        assert not hasattr(package, "no_such_name")


@pytest.mark.parametrize("path", [*PAGES, *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("examples/*.py"))])
def test_users_are_shown_the_public_face_alone(path):
    """README, pages and examples import nothing but public names."""
    if path in PAGES:
        sources = [dedent(block) for block in re.findall(r"```python\n(.*?)```", PAGES[path], re.DOTALL)]
        sources += re.findall(r"python -c [\"'](.*?)[\"']$", PAGES[path], re.MULTILINE)
    else:
        sources = [(ROOT / path).read_text(encoding="utf-8")]
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                ours = [alias.name for alias in node.names if alias.name.partition(".")[0] in FACES]
                assert set(ours) <= FACES.keys(), ours
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FACES:
                assert node.module in FACES, ast.unparse(node)
                assert {alias.name for alias in node.names} <= {*FACES[node.module].__all__}, ast.unparse(node)


if __name__ == "__main__":
    print("\n".join(public_face()))  # noqa: T201 - the content of the golden file
