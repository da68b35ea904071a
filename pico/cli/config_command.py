"""``pico config``: is a file good, what counts and who said so, and what may stand in a file.

Responsible for: the three commands and how they print. Refuses to know: the settings (``pico.cli.settings``) and where
values come from (``pico.cli.sources``).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pico.cli.agent_options import AGENT
from pico.cli.command_line import MISUSED, OK, UsageError, parse
from pico.cli.node_options import NODE
from pico.cli.settings import Program, field_of
from pico.cli.sources import Reading, check_file, read_settings

__all__ = ["USAGE", "run_config"]

USAGE = """\
pico config: is a file good, what counts and who said so, what may stand in a file.

Usage:
  pico config <command> [<arguments>...]

Commands:
  check FILE [--agent]                      everything that is wrong with a file, each with its line
  show [--agent] [--json] [OPTIONS...]      what counts with these options, this environment and the file that
                                            --config or PICO_CONFIG names, and who said so
  schema [--agent]                          the JSON Schema of a file

A file is one for pico-node unless --agent is given. Exit code of check and show: 0 when all is well, 2 when it is not.

  -h, --help     print this text
"""

CHECK: Final = """\
Usage:
  pico config check [--agent] <file>

  --agent   the file is one for pico-agent
"""

SCHEMA: Final = """\
Usage:
  pico config schema [--agent]

  --agent   for a file of pico-agent
"""


def run_config(arguments: Mapping[str, Any]) -> int:
    """Runs with the arguments of ``USAGE``. Raises ``UsageError`` and ``ConfigError``."""
    name, words = arguments["<command>"], arguments["<arguments>"]
    run = {"check": _check, "show": _show, "schema": _schema}.get(name)
    if run is None:
        raise UsageError(f"unknown command {name}: one of check, show, schema")
    return run(words)


def _program(agent: object) -> Program[Any]:
    return AGENT if agent else NODE


def _check(words: Sequence[str]) -> int:
    arguments = parse(CHECK, words, program="pico config check")
    agent, path = arguments["--agent"], str(arguments["<file>"])
    program = _program(agent)
    read = _read_agents_materials if agent else _read_nodes_materials
    remarks: list[str] = []
    config, faults = check_file(program, path, os.environ, lambda config: remarks.extend(read(config)))
    for fault in (*remarks, *faults):
        print(f"pico config check: {fault}", file=sys.stderr)
    if not faults:
        missing = [key for key in program.required if not field_of(config, program.settings[key].field)]
        rest = f", with {' and '.join(missing)} from elsewhere" if missing else ""
        print(f"{path} is good for {program.name}{rest}")
    elif not check_file(_program(not agent), path, os.environ)[1]:
        hint = "pico-node, without --agent" if agent else "pico-agent, with --agent"
        print(f"pico config check: it is good for {hint}", file=sys.stderr)
    return MISUSED if faults else OK


def _read_nodes_materials(config: Any) -> list[str]:
    """What only reading certificates and keys can find: remarks; raises ``ConfigError`` for what is not usable."""
    from pico.node.materials import NodeMaterials

    return [
        f"{door}_tls_cert: the certificate {matter}: whoever verifies it refuses to connect"
        for door, matter in NodeMaterials.read(config).not_valid(time.time())
    ]


def _read_agents_materials(config: Any) -> list[str]:
    """Likewise."""
    from pico.agent.materials import AgentMaterials

    AgentMaterials.read(config)
    return []


def _show(words: Sequence[str]) -> int:
    """Everything but its own two options belongs to the program."""
    if "--help" in words or "-h" in words:
        print(USAGE.strip())
        return OK
    own = {"--agent", "--json"}
    program = _program("--agent" in words)
    reading = read_settings(program, [word for word in words if word not in own], os.environ)
    (_show_json if "--json" in words else _show_text)(reading)
    for warning in reading.warnings:
        print(f"pico config show: {warning}", file=sys.stderr)
    return OK


def _show_json(reading: Reading[Any]) -> None:
    rows = {one.setting.key: {"value": one.shown, "source": one.source} for one in reading.values}
    print(json.dumps(rows, indent=2))


def _show_text(reading: Reading[Any]) -> None:
    key_width = max(len(one.setting.key) for one in reading.values)
    value_width = min(max(len(one.shown) for one in reading.values), 40)
    for one in reading.values:
        print(f"{one.setting.key:<{key_width}}  {one.shown or '-':<{value_width}}  {one.source}")


def _schema(words: Sequence[str]) -> int:
    from pico.cli.schema import schema_text

    arguments = parse(SCHEMA, words, program="pico config schema")
    print(schema_text(_program(arguments["--agent"])), end="")
    return OK
