"""From a YAML file to what it sets, each with its line.

Responsible for: reading the file within limits, refusing what is not known or stands there twice, expanding variables,
and the line of every complaint. Refuses to know: what a text means; its kind reads it, as it does a word of a command
line.

What stands in a wrong place may be a secret, so a complaint quotes names and the values of settings only.

The document is composed and never constructed: only texts with their places come out, so what YAML takes a plain word
for does not matter. Anchors, aliases and tags have no place among names and values, and are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from pico.cli.given import Given, Text
from pico.cli.settings import Program, Setting
from pico.cli.values import readable_file
from pico.errors import ConfigError

__all__ = ["DEPTH_MAX", "FILE_BYTES_MAX", "FileLayer", "read_file"]

FILE_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 5
"""A list of mappings of texts in a mapping is four deep."""
NAME_LENGTH_MAX: Final = 40
"""Of names that a complaint quotes. The shortest key of a cluster is longer."""

_VARIABLE: Final = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\})?|\$\$\{")
_NULL: Final = "tag:yaml.org,2002:null"


@dataclass
class FileLayer:
    """What a file sets, by key, and everything that is wrong with it."""

    given: dict[str, Given] = field(default_factory=dict)
    faults: list[ConfigError] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """Composes within limits."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Without aliases, anchors and tags, and not deep."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        objection = _objection(event) or ("too deep" if self.depth >= DEPTH_MAX else "")
        if objection:
            raise yaml.composer.ComposerError(None, None, objection, event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _objection(event: Any) -> str:
    """What a node begins with and must not; the composed node does not tell."""
    if isinstance(event, yaml.AliasEvent):
        return "an alias has no place here"
    if event.anchor is not None:
        return "an anchor has no place here"
    return "a tag has no place here" if event.tag is not None else ""


def read_file(path: str, program: Program[Any], environment: Mapping[str, str], *, named: str) -> FileLayer:
    """What the file sets. ``named`` is what a complaint about the file itself calls it: the option, say."""
    layer = FileLayer()
    try:
        root = _compose(path, named)
        if root is not None and root.tag != _NULL:
            _Reading(path, program, environment, layer).read_root(root)
    except ConfigError as error:
        layer.faults.append(error)
    return layer


def _compose(path: str, named: str) -> Any:
    try:
        with Path(readable_file(named, path)).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:  # it may be gone since
        raise ConfigError(named, path, f"a file that can be read ({error.strerror})") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(named, path, f"a file of at most {FILE_BYTES_MAX // 1024}KiB")
    try:
        loader = _Loader(data)  # looks for the encoding, and so may raise
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        problem, begins = error.problem, error.context_mark
        if begins is not None and begins.line != line:
            problem = f"{problem}, {error.context} of line {begins.line + 1}"
        raise ConfigError(f"{path}:{line + 1}", f"column {column + 1}", f"YAML ({problem})") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(named, path, f"a text in UTF-8 without control characters ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _Reading:
    """One walk over the document; a fault does not end it, so that one look tells all of them."""

    def __init__(self, path: str, program: Program[Any], environment: Mapping[str, str], layer: FileLayer) -> None:
        self._path = path
        self._program = program
        self._environment = environment
        self._layer = layer

    def read_root(self, root: Any) -> None:
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(self._at(root), _kind_of(root), "settings, one a line, such as proxy_port: 8000")
        lines: dict[str, int] = {}
        for key_node, value_node in root.value:
            try:
                setting = self._setting(key_node, lines)
                given = self._given(setting, value_node)
                if given is not None:
                    self._layer.given[setting.key] = given
            except ConfigError as error:
                self._layer.faults.append(error)

    def _setting(self, node: Any, lines: dict[str, int]) -> Setting:
        key = self._key(node, lines)
        setting = self._program.settings.get(key)
        if setting is None:
            near = difflib.get_close_matches(key.lower().replace("-", "_"), self._program.settings, 1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ConfigError(self._at(node), _quoted(key), f"a setting of {self._program.name}{hint}")
        return setting

    def _key(self, node: Any, lines: dict[str, int]) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(self._at(node), _kind_of(node), "a name")
        key = str(node.value)
        if key in lines:
            raise ConfigError(self._at(node), _quoted(key), f"each name once; it stands in line {lines[key]} already")
        lines[key] = node.start_mark.line + 1
        return key

    def _given(self, setting: Setting, node: Any) -> Given | None:
        where = f"{self._at(node)}: {setting.key}"
        if isinstance(node, yaml.SequenceNode) and setting.kind.many:
            items = [self._item(setting, item) for item in node.value]
            texts = tuple(item for item in items if item is not None)
        else:
            text = self._text(node, where, "one value" if not setting.kind.many else "one value or a list")
            if text is None:
                return None
            texts = (Text(text, where),)
        return Given(texts, where, f"{self._path}:{node.start_mark.line + 1}", split=isinstance(node, yaml.ScalarNode))

    def _item(self, setting: Setting, node: Any) -> Text | None:
        where = f"{self._at(node)}: {setting.key}"
        if isinstance(node, yaml.MappingNode) and setting.key == "endpoints":
            return Text(self._endpoint(node, where), where)
        text = self._text(node, where, "one value")
        return None if text is None else Text(text, where)

    def _endpoint(self, node: Any, where: str) -> str:
        """As it would stand on a command line."""
        lines: dict[str, int] = {}
        parts: dict[str, str] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, lines)
            if key not in ("endpoint", "service"):
                near = difflib.get_close_matches(key, ("endpoint", "service"), 1)
                hint = f"; the nearest is {near[0]}" if near else ""
                raise ConfigError(self._at(key_node), _quoted(key), f"endpoint or service{hint}")
            parts[key] = self._text(value_node, f"{self._at(value_node)}: {key}", "one value") or ""
        for key in ("endpoint", "service"):
            if not parts.get(key):
                raise ConfigError(where, " ".join(parts) or "nothing", f"an endpoint and a service; {key} is missing")
        return f"{parts['endpoint']}={parts['service']}"

    def _text(self, node: Any, where: str, expected: str) -> str | None:
        """The text as it is written, with its variables; nothing when they leave nothing of it."""
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(where, _kind_of(node), expected)
        if node.tag == _NULL:
            raise ConfigError(where, str(node.value), "a value; leave the line out for the default")
        text = self._expanded(str(node.value), where)
        return None if not text and "${" in node.value else text

    def _expanded(self, text: str, where: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name, default = match[1], match[3]
            if name is None:
                raise ConfigError(where, "${", "a variable such as ${NAME} or ${NAME:-default}; $${ is a plain ${")
            found = self._environment.get(name, "")
            if match[2] is not None:
                return found or default
            if name not in self._environment:
                raise ConfigError(
                    where, f"${{{_quoted(name)}}}", "a variable that is set; ${NAME:-default} has a default"
                )
            return found

        return _VARIABLE.sub(value, text)

    def _at(self, node: Any) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"


def _kind_of(node: Any) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a text"


def _quoted(name: str) -> str:
    return name if len(name) <= NAME_LENGTH_MAX else "..."
