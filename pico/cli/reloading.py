"""Reading again what a program was started with, and what of it can count at once.

Responsible for: comparing what is said now with what counts, setting by setting and file by file, and the settings of
the log, which are the process's and not a node's. Refuses to know: who asks for it, and how a node lives by it.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pico.actors.reload import Proposal
from pico.cli.settings import Change, Program, field_of, with_field
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
        differs = [key for key in self._program.settings if self._differs(key, reading.config, contents)]
        changed = [key for key in differs if self._can_change(key, reading.config)]
        config = self._mixed(reading.config, changed)
        # What is new may not go together with what waits for a restart. Then it waits, too.
        while conflicts := list(self._program.check(config, str)):
            held = {key for conflict in conflicts for key in conflict.keys}.intersection(changed)
            assert held, "what counts goes together"
            changed = [key for key in changed if key not in held]
            config = self._mixed(reading.config, changed)
        needs_restart = [key for key in differs if key not in changed]
        for key in needs_restart:  # what counts of it is what counted before, be it no file at all
            contents.pop(key, None)
        contents |= {key: self._contents[key] for key in needs_restart if key in self._contents}
        accept = partial(self._accept, config, contents, reading)
        return Proposal(config, tuple(changed), tuple(needs_restart), accept, reading.named)

    def _differs(self, key: str, new: Config, contents: Mapping[str, str]) -> bool:
        field = self._program.settings[key].field
        return field_of(self._config, field) != field_of(new, field) or contents.get(key) != self._contents.get(key)

    def _can_change(self, key: str, new: Config) -> bool:
        setting = self._program.settings[key]
        if setting.change is Change.REPLACE:
            return bool(field_of(self._config, setting.field)) and bool(field_of(new, setting.field))
        return setting.change is Change.RELOAD

    def _mixed(self, new: Config, keys: Collection[str]) -> Config:
        """What counts, but for ``keys``, which are as in ``new``."""
        config = self._config
        for field in (self._program.settings[key].field for key in keys):
            config = with_field(config, field, field_of(new, field))
        return config

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


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""  # whoever needs it will say so
