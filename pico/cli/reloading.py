"""Reading again what a program was started with, and what of it can count at once.

Responsible for: comparing what is said now with what counts, setting by setting and file by file, and the settings of
the log, which are the process's and not a node's. Refuses to know: who asks for it, and how a node lives by it.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pico.actors.reload import Proposal
from pico.cli.settings import Change, Program, Setting, field_of, with_field
from pico.cli.sources import Reading, read_settings
from pico.observability.logs import configure

__all__ = ["Reloading"]

Config = TypeVar("Config")

_log = logging.getLogger("pico.config")


class Reloading(Generic[Config]):
    """``begin`` once, then ``propose`` whenever somebody asks."""

    def __init__(
        self,
        program: Program[Config],
        words: Sequence[str],
        environment: Mapping[str, str],
        reading: Reading[Config],
    ) -> None:
        """``reading`` is what program, words and environment have given already."""
        self._program = program
        self._words = words
        self._environment = environment
        self._reading = reading
        self._config = reading.config
        self._contents = self._digests(self._config)

    @property
    def config(self) -> Config:
        """What counts."""
        return self._config

    def begin(self) -> None:
        """Have the log written as the settings say, and tell what is doubtful in them."""
        self._configure_log()
        self._warn(self._reading, ())

    def propose(self) -> Proposal[Config]:
        """What is said now. Raises ``UsageError`` and ``ConfigError``."""
        reading = read_settings(self._program, self._words, self._environment)
        contents = self._digests(reading.config)
        config, changed, needs_restart = self._config, [], []
        for key, setting in self._program.settings.items():
            old, new = field_of(self._config, setting.field), field_of(reading.config, setting.field)
            if old == new and contents.get(key) == self._contents.get(key):
                continue
            if _can_change(setting, old, new):
                config = with_field(config, setting.field, new)
                changed.append(key)
            else:
                needs_restart.append(key)
        self._program.check(config, lambda key: key)  # what is new beside what waits for a restart
        for key in needs_restart:  # what counts of it is what counted before, be it no file at all
            contents.pop(key, None)
        contents |= {key: self._contents[key] for key in needs_restart if key in self._contents}
        accept = partial(self._accept, config, contents, reading)
        return Proposal(config, tuple(changed), tuple(needs_restart), accept, reading.named)

    def _accept(self, config: Config, contents: dict[str, str], reading: Reading[Config]) -> None:
        log_settings = ("log_format", "log_level")
        is_logged_otherwise = any(field_of(config, name) != field_of(self._config, name) for name in log_settings)
        warned, self._config, self._contents, self._reading = self._reading.warnings, config, contents, reading
        if is_logged_otherwise:
            self._configure_log()
        self._warn(reading, warned)

    def _configure_log(self) -> None:
        configure(field_of(self._config, "log_format"), field_of(self._config, "log_level"), sys.stderr)

    @staticmethod
    def _warn(reading: Reading[Any], warned: Sequence[str]) -> None:
        for warning in reading.warnings:
            if warning not in warned:
                _log.warning("from the environment: %s", warning)

    def _digests(self, config: Config) -> dict[str, str]:
        """What is in the files that are named, so that a change is seen under an old name, too."""
        files = ((key, one) for key, one in self._program.settings.items() if one.kind.is_file)
        return {key: _digest(path) for key, setting in files if (path := field_of(config, setting.field))}


def _can_change(setting: Setting, old: object, new: object) -> bool:
    if setting.change is Change.REPLACE:
        return bool(old) and bool(new)
    return setting.change is Change.RELOAD


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""  # whoever needs it will say so
