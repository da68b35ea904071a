"""``pico``: one program for people, one word for each thing it can do.

Responsible for: finding the command. Refuses to know: what it does and which options it has. A command is loaded when
it is asked for, so that none makes another slow.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from pico.cli.command_line import Arguments, UsageError, guarded, parse
from pico.cli.standard_streams import open_closed_streams

__all__ = ["main"]

PROGRAM = "pico"

USAGE = """\
pico: see what nodes do and have them do something, check settings, try Pico, measure it. pico-node and pico-agent are
programs of their own.

Usage:
  pico [--help | --version] [<command> [<arguments>...]]

Commands:
  demo        three nodes, an agent and a sample service on this machine, with requests through all of them
  status      what a node says of itself and of the cluster
  drain       have a node finish what is in flight, and end
  disconnect  have the agent of an upstream move to a new tunnel
  forget      have a node forget another one that is dead or has left
  log-level   how much a node or an agent writes to its log
  reload      have a node or an agent read its settings again
  config      is a file good, what counts and who said so, what may stand in a file
  bench       what a request costs, next to nginx and to the thinnest relay there can be
  version     the version, and what Pico runs on

  -h, --help     print this text; pico COMMAND --help prints that of the command
  --version      print the version
"""


class Command(NamedTuple):
    """Where a command is: a module, the function in it that takes the arguments, the name of its usage text."""

    module: str
    function: str
    commands: bool = False
    """It has commands of its own."""
    usage: str = "USAGE"


COMMANDS = {
    "demo": Command("pico.cli.demo", "run_demo"),
    "status": Command("pico.cli.status", "run_status"),
    "drain": Command("pico.cli.actions", "run_drain", usage="DRAIN_USAGE"),
    "disconnect": Command("pico.cli.actions", "run_disconnect", usage="DISCONNECT_USAGE"),
    "forget": Command("pico.cli.actions", "run_forget", usage="FORGET_USAGE"),
    "log-level": Command("pico.cli.actions", "run_log_level", usage="LOG_LEVEL_USAGE"),
    "reload": Command("pico.cli.actions", "run_reload", usage="RELOAD_USAGE"),
    "config": Command("pico.cli.config_command", "run_config", commands=True),
    "bench": Command("pico.cli.bench", "run_bench"),
    "version": Command("pico.cli.version", "run_version"),
}


def main() -> int:
    """The console script. Exit code: the command's; 2 misused, 130 interrupted."""
    open_closed_streams()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ctrl-C, say, where the caller has blocked it
    words = sys.argv[1:]
    program = f"{PROGRAM} {words[0]}" if words and words[0] in COMMANDS else PROGRAM
    return guarded(program, lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    if words and words[0] in COMMANDS:
        return _run_command(words[0], words[1:])
    arguments = parse(USAGE, words, program=PROGRAM, commands=True)
    name = arguments["<command>"]
    if name is None:
        raise UsageError(f"name a command: {', '.join(COMMANDS)}")
    raise UsageError(f"unknown command {name}: one of {', '.join(COMMANDS)}")


def _run_command(name: str, words: Sequence[str]) -> int:
    command = COMMANDS[name]
    module = import_module(command.module)
    run: Callable[[Arguments], int] = getattr(module, command.function)
    return run(parse(getattr(module, command.usage), words, program=f"{PROGRAM} {name}", commands=command.commands))


if __name__ == "__main__":
    sys.exit(main())
