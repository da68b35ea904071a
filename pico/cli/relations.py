"""Which values go together.

Responsible for: the few relations between settings, each with its complaint. Refuses to know: which program has them.
``named`` says how whoever set a key has called it: an option, a variable, or a line of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pico.cli.values import duration_text
from pico.config import TlsFiles
from pico.errors import ConfigError

__all__ = ["Conflict", "require_both_files", "require_less", "require_more"]

Named = Callable[[str], str]


class Conflict(NamedTuple):
    """Settings that do not go together. Whether they do depends on nothing but those of ``keys``."""

    keys: tuple[str, ...]
    error: ConfigError


def require_both_files(files: TlsFiles | None, certificate: str, key: str, named: Named) -> Iterator[Conflict]:
    """The certificate and the key of one door, or neither."""
    if files is None or (files.certificate and files.key):
        return
    missing, present = (key, certificate) if files.certificate else (certificate, key)
    yield Conflict((certificate, key), ConfigError(named(missing), "", f"a file, because {named(present)} is given"))


def require_more(
    key: str,
    value: float,
    than: str,
    other: float,
    named: Named,
    *,
    equal: bool = False,
    text: Callable[[Any], str] = duration_text,
) -> Iterator[Conflict]:
    """One setting is more than another, with ``equal`` or as much: durations, or what ``text`` writes."""
    if value < other or (value == other and not equal):
        words = "at least" if equal else "more than"
        expected = f"{words} {named(than)}, {text(other)}"
        yield Conflict((key, than), ConfigError(named(key), text(value), expected))


def require_less(key: str, value_s: float, than: str, other_s: float, named: Named) -> Iterator[Conflict]:
    """One duration is shorter than another."""
    if value_s >= other_s:
        expected = f"less than {named(than)}, {duration_text(other_s)}"
        yield Conflict((key, than), ConfigError(named(key), duration_text(value_s), expected))
