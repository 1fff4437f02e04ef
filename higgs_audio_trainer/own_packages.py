"""Keeps our packages importable: beside a user's module of the same name, and in child processes.

Python searches the folder of the script, the current folder or PYTHONPATH before the installed packages, so a user's
`sinks.py` would hide ours. Importing this module makes `import sinks` find the package that lies beside
`higgs_audio_trainer`. A name or a submodule that our package lacks is then looked up in the user's module, so that
`--sinks sinks:make` and the user's own `import sinks` still work.

Every module that imports `sinks` imports this module first, directly or by the `__init__.py` of its folder.

A child process imports what its parent imports, by `import_path` or `child_environment`. A checkout that is not
installed is otherwise found only in the folder where the parent was started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_HOME = Path(__file__).resolve().parent.parent


def prefer_own(name: str) -> None:
    """Make `import name` find our package, whatever comes first on Python's path. A second call does nothing.

    Args:
        name: `sinks` or `schemas`.

    Example:
        >>> prefer_own("sinks")
        >>> import sinks
        >>> Path(sinks.__file__).parent.parent == _HOME
        True
    """
    if any(isinstance(finder, _OwnPackage) and finder.name == name for finder in sys.meta_path):
        return
    loaded = sys.modules.get(name)
    theirs = None if loaded is None or _is_ours(name, getattr(loaded, "__file__", None)) else loaded
    if theirs is not None:
        for other in [other for other in sys.modules if other == name or _hides_ours(other, name)]:
            del sys.modules[other]
    sys.meta_path.insert(0, _OwnPackage(name, theirs))


def import_path() -> list[str]:
    """Return Python's path of this process for a child process, with the folder of our packages.

    The folder may be missing from the path: the path of `python -c` begins with "", the current folder.

    Example:
        >>> str(_HOME) in import_path()
        True
    """
    path = [str(place) for place in sys.path]
    return path if str(_HOME) in path else [str(_HOME), *path]


def child_environment() -> dict[str, str]:
    """Return the environment for a child process that runs Python and imports what this process imports.

    The child's path is `import_path`, whatever its current folder is and whichever modules lie there.

    Example:
        >>> child_environment()["PYTHONPATH"].split(os.pathsep) == import_path()
        True
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}


def _is_ours(name: str, file: str | None) -> bool:
    return file is not None and Path(file).resolve().parent == _HOME / name


def _hides_ours(module: str, name: str) -> bool:
    """Return True for a submodule of a user's package if our package has a submodule of the same name."""
    place = _HOME.joinpath(*module.split("."))
    return module.startswith(f"{name}.") and (place.is_dir() or place.with_suffix(".py").is_file())


class _OwnPackage:
    """Finder of one of our packages, for `sys.meta_path`.

    Args:
        name: Name of the package.
        theirs: User's module of this name, if it is loaded.
    """

    def __init__(self, name: str, theirs: ModuleType | None) -> None:
        self.name, self._theirs = name, theirs

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of our package. Its submodules are searched in the user's package too."""
        if name != self.name:
            return None
        hidden = [place for place in sys.path if Path(place or ".").resolve() != _HOME]
        found = self._theirs.__spec__ if self._theirs else PathFinder.find_spec(name, hidden)
        if found is None or found.origin is None or _is_ours(name, found.origin):
            return spec_from_file_location(name, _HOME / name / "__init__.py")
        places = [str(_HOME / name), *(found.submodule_search_locations or ())]
        loader = _WithFallback(name, str(_HOME / name / "__init__.py"), self._load_theirs(found))
        return spec_from_file_location(name, loader.path, loader=loader, submodule_search_locations=places)

    def _load_theirs(self, found: ModuleSpec) -> Callable[[], ModuleType]:
        def load() -> ModuleType:
            if self._theirs is None:
                alias = f"{found.name} of the user"  # no name that an import could find
                spec = spec_from_file_location(
                    alias, found.origin, submodule_search_locations=found.submodule_search_locations
                )
                assert spec is not None
                assert spec.loader is not None
                module = sys.modules[alias] = module_from_spec(spec)
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[alias]
                    raise
                self._theirs = module
            return self._theirs

        return load


class _WithFallback(SourceFileLoader):
    """Loader of our package that looks up unknown names in the user's module.

    Args:
        name: Name of the package.
        path: Path of the package's `__init__.py`.
        load_theirs: Returns the user's module and runs it the first time.
    """

    def __init__(self, name: str, path: str, load_theirs: Callable[[], ModuleType]) -> None:
        super().__init__(name, path)
        self._load_theirs = load_theirs

    def exec_module(self, module: ModuleType) -> None:
        """Run our package and add the lookup."""
        super().exec_module(module)
        own: Callable[[str], Any] | None = vars(module).get("__getattr__")

        def look_up(name: str) -> Any:
            error = AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            if own is not None:
                try:
                    return own(name)
                except AttributeError as missing:
                    error = missing
            if name.startswith("__"):  # asked for by tools, which must not run the user's module
                raise error
            return getattr(self._load_theirs(), name)

        vars(module)["__getattr__"] = look_up


prefer_own("sinks")
