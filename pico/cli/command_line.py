"""From the words of a command line to values, or to one line that says what was wrong with them.

Responsible for: holding docopt to what its text promises, and the exit codes. Refuses to know: what any option means.

docopt reads the usage text and fits the words to it. Its maintained distribution is also helpful where a server must
not be: it completes an abbreviated option and corrects a misspelt one. So every option is compared with the text first,
letter by letter, and what is wrong is named, which docopt cannot do.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from docopt import DocoptExit, docopt

from pico import __version__
from pico.errors import ConfigError, PicoError

__all__ = ["INTERRUPTED", "MISUSED", "OK", "Arguments", "UsageError", "guarded", "parse"]

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

Arguments = dict[str, str | bool | int | list[str] | None]

_OPTION_LINE = re.compile(r"^ +(?:(-[a-z]), )?(--[a-z][a-z0-9-]*)(=\S+)?", re.MULTILINE)


class UsageError(PicoError):
    """The words of the command line do not fit the usage text; says which one and why."""


@dataclass(frozen=True, slots=True)
class _Option:
    name: str
    takes_value: bool
    repeats: bool
    required: bool


def parse(
    usage: str, words: Sequence[str], *, program: str, commands: bool = False, brief: str | None = None
) -> Arguments:
    """Fit ``words`` to the ``usage`` text. ``--help`` and ``--version`` print and raise ``SystemExit(0)``.

    With a ``brief`` text ``--help`` prints that one, and ``--help-all`` the whole.

    A ``program`` of two words is a command of the first: the usage text names both. With ``commands`` the first word
    that is no option ends the options: the words after it belong to the command.
    Raises ``UsageError``.
    """
    options = _options_of(usage)
    seen, plain = _check(options, words, commands=commands)
    if "--help" in seen or (brief is not None and "--help-all" in seen):
        print((usage if brief is None or "--help-all" in seen else brief).strip(), flush=True)
        raise SystemExit(OK)
    if "--version" in seen:
        print(f"{program} {__version__}", flush=True)
        raise SystemExit(OK)
    for option in options.values():
        if option.required and option.name not in seen:
            raise UsageError(f"{option.name} is missing")
    try:
        own = program.split()[1:]
        return dict(docopt(usage, [*own, *words], default_help=False, options_first=commands))
    except DocoptExit as error:
        wanted = _wanted(usage)
        if len(plain) > len(wanted):
            raise UsageError(f"unexpected argument {plain[len(wanted)]!r}") from error
        raise UsageError(f"{wanted[len(plain)] if len(plain) < len(wanted) else 'a word'} is missing") from error


def guarded(program: str, command: Callable[[], int]) -> int:
    """The exit code of ``command``. Whatever it raises becomes one line on standard error: no traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _say(program, f"{error} (see {program} --help)", MISUSED)
    except ConfigError as error:
        return _say(program, str(error), MISUSED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up(sys.stdout)  # whoever read our output has gone
        return FAILED
    except PicoError as error:
        return _say(program, str(error), FAILED)
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        return _say(program, file + (error.strerror or str(error)), FAILED)
    except Exception as error:
        return _say(program, f"internal error: {type(error).__name__}: {error}", FAILED)


def _say(program: str, text: str, code: int) -> int:
    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.flush()  # what was logged stands above it
    if any(getattr(handler, "waiting_bytes", 0) for handler in handlers):
        return code  # nobody reads
    try:
        print(f"{program}: {' '.join(text.split())}", file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)  # the code still says it
    return code


def _give_up(stream: TextIO) -> None:
    """The interpreter must not complain about it, and end with a code of its own, when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _options_of(usage: str) -> dict[str, _Option]:
    """Every option with a line of its own in the text, under its long and its short name; help needs no line."""
    help_, version = (_Option(name, False, False, False) for name in ("--help", "--version"))
    options = {"-h": help_, "--help": help_, "--version": version}
    for short, name, value in _OPTION_LINE.findall(usage):
        repeats = bool(re.search(rf"{name}=[A-Z]+[)\]]?\.\.\.", usage))
        required = bool(re.search(rf"\({name}=[A-Z]+\)", usage))
        option = _Option(name, bool(value), repeats, required)
        options.update({name: option, **({short: option} if short else {})})
    return options


def _wanted(usage: str) -> list[str]:
    """What the usage text has a place for beside options, in order."""
    pattern = usage.partition("Usage:\n")[2].partition("\n\n")[0]
    return [f"the {name}" for name in re.findall(r"<([a-z]+)>", pattern)]


def _check(options: dict[str, _Option], words: Sequence[str], *, commands: bool) -> tuple[set[str], list[str]]:
    """The names of the options that are there, and the words that are none. Raises ``UsageError``."""
    seen: set[str] = set()
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--" or (commands and not word.startswith("-")):
            plain += [] if word == "--" else [word]
            plain += rest
        elif not word.startswith("-") or word == "-":
            plain.append(word)
        else:
            name, equals, _ = word.partition("=")
            option = _known(options, name)
            if option.name in seen and not option.repeats:
                raise UsageError(f"{option.name} is given twice")
            if equals and not option.takes_value:
                raise UsageError(f"{option.name} takes no value")
            if option.takes_value and not equals and next(rest, None) is None:
                raise UsageError(f"{option.name} needs a value")
            seen.add(option.name)
    return seen, plain


def _known(options: dict[str, _Option], name: str) -> _Option:
    option = options.get(name)
    if option is None:
        longer = sorted(known for known in options if len(name) > 2 and known.startswith(name))
        hint = f"; write {' or '.join(longer)} in full" if longer else ""
        raise UsageError(f"unknown option {name}{hint}")
    return option
