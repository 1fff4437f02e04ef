"""Loader of YAML with bounds. The import of yaml is slow, so `documents.load_yaml` imports this module when needed."""

from __future__ import annotations

from typing import Any

import yaml

from higgs_audio_trainer.bounds import MAX_DEPTH, MAX_INTEGER, MAX_YAML_VALUES, MIN_INTEGER
from higgs_audio_trainer.documents import LONGEST_INTEGER, TOO_DEEP, shown


class YamlLoader(yaml.SafeLoader):
    """SafeLoader that counts the depth and the values while nodes are composed, before values are constructed."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._values_of: dict[Any, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, and count the depth and the values of the document."""
        before = self._values
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error(*TOO_DEEP, mark)
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node not in self._values_of:
            raise _error("an alias of a complete value", "an alias within its own value", mark)
        self._values += self._values_of[node] if is_alias else 1
        if self._values > MAX_YAML_VALUES:
            raise _error(f"at most {MAX_YAML_VALUES:,} values, with those of aliases", "more", mark)
        self._values_of[node] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping, and refuse a key that comes twice."""
        node: Any = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:  # before a merge (`<<`), whose keys others may repeat
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else (key, "")
            if name in names:
                raise _error("each key once", f"{shown(key.value)} twice", key.start_mark)
            names.add(name)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct a value. PyYAML lets the errors of Python pass for a value that its tag does not fit."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError) as error:  # such as !!bool maybe
            raise _error(f"a value of {node.tag}", shown(node.value), node.start_mark) from error

    def construct_yaml_int(self, node: Any) -> int:
        """Construct an integer, and refuse an integer beyond 64 bits before its digits are read."""
        text = self.construct_scalar(node)
        try:
            value = int(super().construct_yaml_int(node)) if len(text) <= LONGEST_INTEGER else MAX_INTEGER + 1
        except ValueError:
            raise _error("an integer", shown(text), node.start_mark) from None
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise _error("an integer of at most 64 bits", f"one of {len(text):,} characters", node.start_mark)
        return value


YamlLoader.add_constructor("tag:yaml.org,2002:int", YamlLoader.construct_yaml_int)


def _error(expected: str, got: str, mark: Any) -> Exception:
    return ValueError(f"expected {expected}, got {got} in line {mark.line + 1}, column {mark.column + 1}")
