"""The examples of docstrings print what the docstrings show."""

import ast
import doctest
import importlib

import pytest

from tests.readme import ROOT

FOLDERS = ("higgs_audio_trainer", "sinks", "schemas", "benchmarks", "examples", "docs")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("file", FILES)
def test_the_examples_of_a_file(file):
    """The search includes functions inside of functions, because `doctest` skips such functions."""
    module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    runner, output = doctest.DocTestRunner(verbose=False), []
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring, line = ast.get_docstring(node) or "", getattr(node, "lineno", 0)
            name = getattr(node, "name", module.__name__)
            runner.run(
                doctest.DocTestParser().get_doctest(docstring, dict(vars(module)), name, file, line), out=output.append
            )
    assert runner.failures == 0, "".join(output)
    assert runner.tries > 0, f"expected examples in the docstrings of {file}, where the file has '>>> '"
