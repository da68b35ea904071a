"""Where values come from: the command line before the environment before the file before the default.

Responsible for: collecting what each source says of each setting, choosing, and remembering who said it. Refuses to
know: which settings there are (a ``Program`` says), and how a file is written (``pico.cli.config_file``).

What a later source says is read even when it does not count, so that a file is good or bad whoever starts with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pico.cli.command_line import Arguments, UsageError, parse
from pico.cli.given import Given, Text
from pico.cli.settings import ADMIN_CA_VARIABLE, ADMIN_VARIABLE, MASK, PREFIX, Program, Setting, with_field
from pico.errors import ConfigError, PicoError

__all__ = ["Reading", "Value", "check_file", "read_settings"]

Config = TypeVar("Config")
Layer = Mapping[str, Given]

CONFIG_FLAG: Final = "--config"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
DEFAULT: Final = "default"

# What Kubernetes puts into the environment of every container for a Service: of one that is called pico-proxy, even
# PICO_PROXY_PORT=tcp://10.96.0.1:8000.
_OF_A_SERVICE: Final = re.compile(r".*_SERVICE_(HOST|PORT)(_\w+)?|.*_PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?")
_ADDRESS_OF_A_SERVICE: Final = re.compile(r"(tcp|udp|sctp)://")


class Value(NamedTuple):
    """What counts for one setting, and who said so: flag, environment, FILE:LINE or default."""

    setting: Setting
    value: Any
    source: str

    @property
    def shown(self) -> str:
        """The value for people."""
        text = self.setting.written(self.value)
        return MASK if self.setting.secret and text else text


@dataclass(frozen=True)
class Reading(Generic[Config]):
    """All that counts for one program."""

    config: Config
    values: tuple[Value, ...]
    warnings: tuple[str, ...]
    names: Mapping[str, str]
    """By key, how whoever set it has called it: an option, a variable, or a line of the file."""

    def named(self, key: str) -> str:
        """The same for what a complaint is about, which may be no setting."""
        return self.names.get(key, key)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """What is raised within of a setting names it so."""
        try:
            yield
        except ConfigError as error:
            raise error.renamed(self.named) from error


def read_settings(program: Program[Config], words: Sequence[str], environment: Mapping[str, str]) -> Reading[Config]:
    """What a command line, the environment and the file that one of them names say together.

    Raises ``UsageError`` and ``ConfigError`` for the first thing that is wrong. ``--help`` and ``--version`` print and
    raise ``SystemExit(0)``.
    """
    arguments = parse(program.usage, words, program=program.name, brief=program.usage_brief)
    layers = [_from_arguments(program, arguments), _from_environment(program, environment)]
    named = CONFIG_FLAG if arguments[CONFIG_FLAG] is not None else CONFIG_VARIABLE
    path = arguments[CONFIG_FLAG] if named == CONFIG_FLAG else environment.get(CONFIG_VARIABLE)
    faults: list[PicoError] = []
    if path or named == CONFIG_FLAG:
        layers.append(_from_file(program, str(path), environment, named, faults))
    config, values, names = _resolved(program, layers, faults)
    if faults:
        raise faults[0]
    for key in program.required:
        if not next(value.value for value in values if value.setting.key == key):
            doubts = _warnings(program, environment)  # one of which may be why
            raise UsageError("; ".join([f"{program.settings[key].flag} is missing", *doubts]))
    return Reading(config, values, tuple(_warnings(program, environment)), names)


def check_file(
    program: Program[Config],
    path: str,
    environment: Mapping[str, str],
    read: Callable[[Config], object] = lambda config: None,
) -> tuple[Config, list[PicoError]]:
    """The configuration that a file makes of the defaults, and everything that is wrong with it.

    ``read`` is given a configuration that is good; it reads what that names, and raises ``ConfigError``.
    """
    faults: list[PicoError] = []
    layer = _from_file(program, path, environment, "FILE", faults)
    config, values, names = _resolved(program, [layer], faults)
    if not faults:
        try:
            with Reading(config, values, (), names).naming():
                read(config)
        except ConfigError as error:
            faults.append(error)
    return config, sorted(faults, key=_line)


def _line(fault: PicoError) -> int:
    """The line of the file that a fault names, if it names one."""
    found = re.match(r".*?:([0-9]+)\b", str(fault))
    return int(found[1]) if found else 0


def _from_arguments(program: Program[Any], arguments: Arguments) -> Layer:
    given: dict[str, Given] = {}
    for setting in program.settings.values():
        said = arguments[setting.flag] if setting.flag else None
        if said is None or said == []:
            continue
        texts = said if isinstance(said, list) else [str(said)]
        given[setting.key] = Given(tuple(Text(text, setting.flag) for text in texts), setting.flag, "flag")
    return given


def _from_environment(program: Program[Any], environment: Mapping[str, str]) -> Layer:
    """An empty variable says nothing, as if it were not there."""
    given = {}
    for setting in program.settings.values():
        text = environment.get(setting.variable)
        if text and not _is_of_a_service(setting, text):
            given[setting.key] = Given((Text(text, setting.variable),), setting.variable, "environment")
    return given


def _is_of_a_service(setting: Setting, text: str) -> bool:
    return setting.key.endswith("_port") and bool(_ADDRESS_OF_A_SERVICE.match(text))


def _from_file(
    program: Program[Any], path: str, environment: Mapping[str, str], named: str, faults: list[PicoError]
) -> Layer:
    from pico.cli.config_file import read_file  # with PyYAML, which nobody pays for who has no file

    layer = read_file(path, program, environment, named=named)
    faults += layer.faults
    return layer.given


def _resolved(
    program: Program[Config], layers: Sequence[Layer], faults: list[PicoError]
) -> tuple[Config, tuple[Value, ...], Mapping[str, str]]:
    config, values = program.defaults, []
    names = {key: setting.flag or key for key, setting in program.settings.items()}
    for setting in program.settings.values():
        value, source = program.default(setting), DEFAULT
        for layer in reversed(layers):
            given = layer.get(setting.key)
            if given is not None:
                try:
                    value, source = _read(setting, given), given.source
                    names[setting.key] = given.where
                except ConfigError as error:
                    faults.append(error)
        if source != DEFAULT:
            config = with_field(config, setting.field, value)
        values.append(Value(setting, value, source))
    if not faults:
        faults += [conflict.error for conflict in program.check(config, names.__getitem__)]
    return config, tuple(values), names


def _read(setting: Setting, given: Given) -> Any:
    if not setting.kind.many:
        (only,) = given.texts
        return setting.read(only.where, only.text)
    parts = [
        Text(part, where)
        for text, where in given.texts
        for part in (re.split(r"[,\s]+", text) if given.split else [text])
        if part or not given.split
    ]
    return tuple(setting.read(where, part) for part, where in parts)


def _warnings(program: Program[Any], environment: Mapping[str, str]) -> list[str]:
    """Of variables that look as if they should set something; others may have set them, so nothing fails."""
    warnings = []
    for setting in program.settings.values():
        text = environment.get(setting.variable, "")
        if _is_of_a_service(setting, text):
            warnings.append(f"{setting.variable} is not a port but what Kubernetes says of a Service; it is not read")
    unknown = [name for name in environment if name.startswith(PREFIX) and not _OF_A_SERVICE.fullmatch(name)]
    if unknown:
        known = _known_variables()
        words = sorted(name.removeprefix(PREFIX) for name in known)
        for name in sorted(set(unknown) - known):
            near = difflib.get_close_matches(name.removeprefix(PREFIX), words, 1)
            hint = f"; the nearest name is {PREFIX}{near[0]}" if near else ""
            warnings.append(f"{name} sets nothing{hint}")
    return warnings


def _known_variables() -> set[str]:
    """Of all programs, because they may share an environment."""
    from pico.cli.agent_options import AGENT
    from pico.cli.node_options import NODE

    programs: tuple[Program[Any], ...] = (NODE, AGENT)
    others = (CONFIG_VARIABLE, ADMIN_VARIABLE, ADMIN_CA_VARIABLE)
    return {*others, *(one.variable for program in programs for one in program.settings.values())}
