"""The table of what can be set: one row for each setting of a program, in three spellings.

Responsible for: what a row says (names, field, kind, one line of text, whether a reload can change it), and the usage
text that is made of the rows. Refuses to know: where a value comes from (``pico.cli.sources``), and what it does.

Everything that names settings is made of this table: the options of the command line, the variables of the
environment, the keys of a file, the JSON Schema and the reference page. A default stands in ``pico.config`` and nowhere
else.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pico.cli.kinds import Kind
from pico.cli.relations import Conflict
from pico.cli.values import without_credentials
from pico.config import TlsFiles
from pico.errors import ConfigError

__all__ = [
    "ADMIN_CA_VARIABLE",
    "ADMIN_VARIABLE",
    "MASK",
    "PREFIX",
    "Change",
    "Program",
    "Section",
    "Setting",
    "field_of",
    "with_field",
]

Config = TypeVar("Config")

PREFIX: Final = "PICO_"
ADMIN_VARIABLE: Final = f"{PREFIX}ADMIN"
"""Of the commands that ask a node: where its admin door is."""

ADMIN_CA_VARIABLE: Final = f"{PREFIX}ADMIN_CA_FILE"
MASK: Final = "********"
WIDTH: Final = 118
COLUMN: Final = 36
SHORTEST: Final = 30
"""Of the texts beside the names, where a name is long."""


class Change(Enum):
    """What a new value needs in order to count."""

    RELOAD = "reload"
    """SIGHUP, or a POST to ``/-/reload``."""
    REPLACE = "reload, from one value to another"
    """The same, but neither from nothing to a value nor back."""
    RESTART = "restart"


class Setting(NamedTuple):
    """One thing that can be set; ``field`` leads to its place in the configuration, a dot into a part of that."""

    key: str
    field: str
    kind: Kind
    text: str = ""
    change: Change = Change.RESTART
    none: str = "none"
    """What the default is called when it is empty."""
    option: str = ""
    """The option's name where it is not the key's, and ``-`` where there is none."""
    secret: bool = False

    @property
    def flag(self) -> str:
        """Its option, or nothing."""
        return "" if self.option == "-" else f"--{self.option or self.key.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Its variable in the environment."""
        return PREFIX + self.key.upper()

    def read(self, where: str, text: str) -> Any:
        """One value, or one item of a list. Raises ``ConfigError``, which names ``where`` and all of ``text``."""
        try:
            return self.kind.read(where, text)
        except ConfigError as error:
            raise ConfigError(where, without_credentials(text), error.expected) from error

    def written(self, value: Any) -> str:
        """A value as it would be set, a list with commas; nothing for what is not set."""
        if value is None or value == "" or value == ():
            return ""
        return ", ".join(map(self.kind.write, value)) if self.kind.many else self.kind.write(value)


class Section(NamedTuple):
    """Settings that belong together. Those of a ``rare`` one are told by ``--help-all`` only."""

    title: str
    note: str
    settings: tuple[Setting, ...]
    rare: bool = False


@dataclasses.dataclass(frozen=True)
class Program(Generic[Config]):
    """What can be set of one program; ``check`` finds the values that do not go together."""

    name: str
    intro: str
    defaults: Config
    sections: tuple[Section, ...]
    check: Callable[[Config, Callable[[str], str]], Iterable[Conflict]]
    """Given a configuration, and how whoever set a key has called it."""
    required: tuple[str, ...] = ()
    """Keys without a default."""
    example: str = ""
    """A line of a file, for the usage text."""

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """By key."""
        return {setting.key: setting for section in self.sections for setting in section.settings}

    def default(self, setting: Setting) -> Any:
        """The value of a setting that nobody sets."""
        return field_of(self.defaults, setting.field)

    def default_text(self, setting: Setting) -> str:
        """The same for people."""
        return setting.written(self.default(setting)) or setting.none

    @cached_property
    def usage(self) -> str:
        """The usage text with every option."""
        return self._usage(rare=True)

    @cached_property
    def usage_brief(self) -> str:
        """The usage text with the options that are used every day."""
        return self._usage(rare=False)

    def _usage(self, *, rare: bool) -> str:
        repeated = "".join(
            f"[{setting.flag}={setting.kind.metavar}]... "
            for setting in self.settings.values()
            if setting.flag and setting.kind.many and setting.option
        )
        parts = [f"{self.name}: {self.intro}\n", f"Usage:\n  {self.name} {repeated}[options]\n", _help_text(self)]
        for section in self.sections:
            if rare or not section.rare:
                parts.append(_section_text(section, self))
        return "\n".join(parts)


def _help_text(program: Program[Any]) -> str:
    example = program.settings[program.example.partition(":")[0]]
    others = [setting for setting in program.settings.values() if setting.flag and setting.option]
    file = f"a YAML file with any of these, by their names with _ for -: {program.example}"
    if others:
        file += f"; {_listed(one.key for one in others)} stand for {_listed(one.flag for one in others)}"
    variables = _listed(f"{one.variable} for {one.flag}" for one in (example, *others))
    note = (
        f"Each option has a variable, too: {variables}. An option goes before a variable, a variable before the file. "
        "`pico config` checks a file and shows what counts."
    ).replace(" --", "\N{NO-BREAK SPACE}--")  # for docopt a line that begins with an option describes it
    lines = [
        *_option_lines("  -h, --help", "print what is used every day"),
        *_option_lines("  --help-all", "print every option"),
        *_option_lines("  --version", "print the version"),
        *_option_lines("  --config=FILE", file),
        "",
        *textwrap.wrap(note, WIDTH),
    ]
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ") + "\n"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def _section_text(section: Section, program: Program[Any]) -> str:
    note = f". {section.note}" if section.note else ""
    lines = textwrap.wrap(f"{section.title}{note}:", WIDTH)
    for setting in section.settings:
        if setting.flag:
            lines += _option_lines(f"  {setting.flag}={setting.kind.metavar}", _option_text(setting, program))
    return "\n".join(lines) + "\n"


def _option_text(setting: Setting, program: Program[Any]) -> str:
    if setting.key in program.required:
        return setting.text
    default = f"default: {program.default_text(setting)}"
    return f"{setting.text}; {default}" if setting.text else default


def _option_lines(name: str, text: str) -> list[str]:
    column = max(COLUMN, len(name) + 2)
    wrapped = textwrap.wrap(text, max(WIDTH - column, SHORTEST))
    rest = [" " * COLUMN + line for line in textwrap.wrap(" ".join(wrapped[1:]), WIDTH - COLUMN)]
    return [name.ljust(column) + wrapped[0], *rest]


def field_of(config: Any, path: str) -> Any:
    """What stands at a path; nothing where a part is not there."""
    for name in path.split("."):
        if config is None:
            return ""
        config = getattr(config, name)
    return config


def with_field(config: Config, path: str | Sequence[str], value: object) -> Config:
    """``config`` with another value at a path."""
    names = path.split(".") if isinstance(path, str) else path
    changed: Any = value
    if len(names) > 1:
        part = getattr(config, names[0])
        # The only part that may be missing; whether both of its files are named is checked when all are known.
        changed = with_field(TlsFiles(certificate="", key="") if part is None else part, names[1:], value)
        if changed == TlsFiles(certificate="", key=""):
            changed = None
    return dataclasses.replace(config, **{names[0]: changed})  # type: ignore[type-var]
