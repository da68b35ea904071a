"""Which values go together.

Responsible for: the few relations between settings, each with its complaint. Refuses to know: which program has them.
``named`` says how whoever set a key has called it: an option, a variable, or a line of a file.
"""

from __future__ import annotations

from collections.abc import Callable

from pico.cli.values import duration_text
from pico.config import TlsFiles
from pico.errors import ConfigError

__all__ = ["require_both_files", "require_less", "require_more"]

Named = Callable[[str], str]


def require_both_files(files: TlsFiles | None, certificate: str, key: str, named: Named) -> None:
    """The certificate and the key of one door, or neither. Raises ``ConfigError``."""
    if files is None or (files.certificate and files.key):
        return
    missing, present = (key, certificate) if files.certificate else (certificate, key)
    raise ConfigError(named(missing), "", f"a file, because {named(present)} is given")


def require_more(key: str, value_s: float, than: str, other_s: float, named: Named, *, equal: bool = False) -> None:
    """One duration is longer than another, with ``equal`` or as long. Raises ``ConfigError``."""
    if value_s < other_s or (value_s == other_s and not equal):
        words = "at least" if equal else "more than"
        raise ConfigError(named(key), duration_text(value_s), f"{words} {named(than)}, {duration_text(other_s)}")


def require_less(key: str, value_s: float, than: str, other_s: float, named: Named) -> None:
    """One duration is shorter than another. Raises ``ConfigError``."""
    if value_s >= other_s:
        raise ConfigError(named(key), duration_text(value_s), f"less than {named(than)}, {duration_text(other_s)}")
