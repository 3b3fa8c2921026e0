"""Reads a YAML file as plain values, and tells the line on which each was said.

    values, lines = read_yaml(Path("its.yaml"))
    values["models"]["llama"]["vote"]["n"], lines["models", "llama", "vote", "n"]    # (8, "its.yaml:17")

Only what YAML's safe loader knows; duplicate keys and whatever nobody writes by hand are refused with
their line, before they can cost anything.
"""

from pathlib import Path
from typing import Any

import yaml

from its_proxy.codesign.errors import ConfigError
from its_proxy.dotted import Key, dotted

MAX_FILE_BYTES = 1 << 20
# Far above any real file (twenty models are some 300 nodes, ten thousand keys 50,000); they bound the work that a
# hostile file can cause.
MAX_NODES = 60_000
# What aliases may add to that, by repeating values.
MAX_REPEATED = 10_000
MAX_ALIASES = 1_000
MAX_DEPTH = 20
MAX_SCALAR_CHARS = 4_096


class _BoundedLoader(yaml.SafeLoader):
    """SafeLoader that stops reading at the first sign of a file that nobody wrote by hand."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self.n_nodes = self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.n_nodes += 1
        self._aliases += isinstance(event, yaml.AliasEvent)
        self._depth += 1
        too_long = isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR_CHARS
        _bound(event.start_mark, self._depth, self.n_nodes, self._aliases, too_long)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        # The scanner reads a thousand brackets ahead before the first node is composed.
        _bound(self.get_mark(), self.flow_level + 1)
        super().fetch_flow_collection_start(TokenClass)


def _bound(mark: Any, depth: int, nodes: int = 0, aliases: int = 0, too_long: bool = False, repeated: int = 0) -> None:
    if depth > MAX_DEPTH:
        problem = f"nested deeper than {MAX_DEPTH} levels"
    elif nodes > MAX_NODES:
        problem = f"more than {MAX_NODES:,} values"
    elif repeated > MAX_REPEATED:
        problem = f"more than {MAX_REPEATED:,} values that aliases repeat"
    elif aliases > MAX_ALIASES:
        problem = f"more than {MAX_ALIASES:,} aliases"
    elif too_long:
        problem = f"a value of more than {MAX_SCALAR_CHARS:,} characters"
    else:
        return
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    """The file's plain values, and `NAME:line` of each key. Raises ConfigError, one line that says where."""
    text = _read_text(file)
    loader = None
    try:
        loader = _BoundedLoader(text)
        node = loader.get_single_node()
        reading = _Reading(loader, file.name)
        values = {} if node is None else reading.plain(node, ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise ConfigError(f"{file.name}:{line}: not YAML: a character that YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file.name}:{mark.line + 1}:{mark.column + 1}" if mark else file.name
        raise ConfigError(f"{place}: not a settings file: {error.problem or error.context}") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError(f"{file.name}:1: should be a mapping of settings", hint="such as  port: 8080")
    return values, reading.lines


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{file.name}: larger than {MAX_FILE_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file.name}:{line}: not UTF-8") from None


class _Reading:
    """Nodes to plain values, as yaml.safe_load makes them, but remembering lines and refusing duplicate keys."""

    def __init__(self, loader: _BoundedLoader, file_name: str) -> None:
        self.lines: dict[Key, str] = {}
        self._loader = loader
        self._file_name = file_name
        self._n_visits = 0

    def plain(self, node: yaml.Node, key: Key) -> Any:
        # Counted at each visit: a value behind ten aliases costs ten times, which is what defuses a bomb.
        self._n_visits += 1
        _bound(node.start_mark, len(key) + 1, repeated=self._n_visits - self._loader.n_nodes)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._entry(part, part, (*key, index)) for index, part in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a tag that settings do not use", problem_mark=node.start_mark)
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError):
            raise yaml.MarkedYAMLError(problem="an unreadable value", problem_mark=node.start_mark) from None

    def _entry(self, at: yaml.Node, node: yaml.Node, key: Key) -> Any:
        self.lines[key] = f"{self._file_name}:{at.start_mark.line + 1}"
        return self.plain(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for name_node, part in node.value:
            if name_node.tag == "tag:yaml.org,2002:merge":
                # As YAML has it: of several merged mappings the first to hold a key wins.
                for source in reversed(part.value if isinstance(part, yaml.SequenceNode) else [part]):
                    values |= self._merged(source, key)
                continue
            name = self.plain(name_node, key) if isinstance(name_node, yaml.ScalarNode) else None
            if not isinstance(name, str):
                problem = "a key that is not text; put it in quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=name_node.start_mark)
            if name in own:
                problem = f"{dotted((*key, name))} is set twice, first in line {own[name][0].start_mark.line + 1}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=name_node.start_mark)
            own[name] = (name_node, part)
        return values | {name: self._entry(at, part, (*key, name)) for name, (at, part) in own.items()}

    def _merged(self, node: yaml.Node, key: Key) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="'<<' takes a mapping or a list of them", problem_mark=node.start_mark)
        merged: dict[str, Any] = self.plain(node, key)
        return merged
