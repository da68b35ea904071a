"""What the table of settings looks like to machines and to readers: a JSON Schema, and the reference page.

Responsible for: both texts, made of the table and of nothing else. Refuses to know: where they are kept; a test
compares them with the files in ``docs``, and ``make reference`` writes those anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pico.cli.agent_options import AGENT
from pico.cli.kinds import EXPANDED
from pico.cli.node_options import NODE
from pico.cli.settings import Change, Program, Setting

__all__ = ["FILES", "reference", "schema", "schema_text"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

INTRODUCTION: Final = """\
# Settings

<!-- Made by `make reference` from the table in pico/cli; edit that. -->

For anyone who configures a node or an agent: every setting there is.

Each setting has one name, spelt in three ways: the option `--proxy-port`, the variable `PICO_PROXY_PORT` and the key
`proxy_port` of a YAML file that `--config FILE` or `PICO_CONFIG` names. An option overrides a variable, a variable
overrides the file, and the file overrides the default.

```yaml
# node.yaml
node_id: ${NODE_ID:-node-3}
join: [node-1.example, node-2.example:8003]
cluster_key_file: /etc/pico/cluster.key
proxy_tls_cert: /etc/pico/proxy.pem
proxy_tls_key: /etc/pico/proxy.key
body_bytes_max: 100MiB
grace_period: 1m
```

```yaml
# agent.yaml
servers: [https://pico.example:8002]
endpoints:
  - endpoint: my-service
    service: http://localhost:3000
  - other=4000
```

- A duration is `500ms`, `10s`, `5m` or `1h`; a size is a number of bytes or `64KiB`, `10MiB`, `1GiB`.
- A list is a YAML list, or one text with commas; options that may be given several times are lists, too.
- An unknown key, a key that occurs twice and a value that is not valid are refused, with file, line and what was
  expected. So is a key without a value: leave the line out for the default. Anchors, aliases and tags are not allowed
  in the file, and it may have at most 256 KiB.
- The file and those that it names are regular files, those at most 16 MiB: a pipe, as of `<(command)`, could not be
  read again.
- `${NAME}` is a variable of the environment, `${NAME:-default}` has a default for one that is not set or empty, `$${`
  is a plain `${`. Without a default a variable that is not set is an error. When nothing is left of a value, it
  counts as not set.
- Words are taken as they are written: `off` is a word and not YAML's false.
- An empty variable counts as not set. A variable that begins with `PICO_` and that nobody knows is named in a warning;
  what Kubernetes sets for a Service (`PICO_PROXY_PORT=tcp://...`) is not read.
- Secrets belong in files of their own, or else in the environment or the file, never on a command line.

`pico config check FILE` finds everything that is wrong with a file. `pico config show` shows the value that each
setting would have, and where it comes from (add the program's own options after it; `--agent` for an agent).
`pico config schema` prints a JSON Schema for editors:

```yaml
# yaml-language-server: $schema=pico-node.schema.json
```

SIGHUP, or a POST to `/-/reload` at the admin door, makes the program read file and environment again. If anything is
wrong, the whole reload is refused and everything stays as it was. Settings that can change without a restart change at
once, without losing a connection; the others are named in the log and in the answer, with what does not go together
with them as they still are. In the tables below, *reload* marks the former. *Replace* means that one value can be
replaced by another at a reload; switching TLS or a cluster key on or off takes a restart. Files are read again even
when their names have not changed, except those that wait for a restart. Limits and timers count for the connections,
tunnels and requests that begin from then on.
"""


def schema(program: Program[Any]) -> dict[str, Any]:
    """The JSON Schema of a file for this program."""
    return {
        "$schema": DIALECT,
        "title": f"{program.name}: settings",
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _property(setting, program) for key, setting in program.settings.items()},
    }


def _property(setting: Setting, program: Program[Any]) -> dict[str, Any]:
    kind = setting.kind
    text = f"{setting.text}; " if setting.text else ""
    described = {"description": f"{text}default: {program.default_text(setting)}"}
    if not kind.many:
        return {**described, **kind.schema}
    return {**described, "anyOf": [{"type": "array", "items": kind.schema}, _one_text(setting)]}


def _one_text(setting: Setting) -> dict[str, Any]:
    """Instead of a list: items with commas."""
    if setting.key == "endpoints":
        return {"type": "string", "pattern": f"=|{EXPANDED}"}
    return dict(setting.kind.schema)


def schema_text(program: Program[Any]) -> str:
    """The same as text."""
    return json.dumps(schema(program), indent=2) + "\n"


def reference() -> str:
    """The reference page, in Markdown."""
    return INTRODUCTION + "".join(_tables(program) for program in (NODE, AGENT))


def _tables(program: Program[Any]) -> str:
    parts = [f"\n## {program.name}\n"]
    for section in program.sections:
        note = f"\n{section.note}.\n" if section.note else ""
        rows = "\n".join(_row(setting, program) for setting in section.settings)
        parts.append(f"\n### {section.title} ({program.name})\n{note}\n{_HEADER}\n{rows}\n")
    return "".join(parts)


_HEADER: Final = (
    "| key | option and variable | value | default | change | meaning |\n| --- | --- | --- | --- | --- | --- |"
)

_CHANGES: Final = {Change.RELOAD: "reload", Change.REPLACE: "replace", Change.RESTART: "restart"}


def _row(setting: Setting, program: Program[Any]) -> str:
    names = "<br>".join(f"`{name}`" for name in (setting.flag, setting.variable) if name)
    default = program.default_text(setting)
    if setting.key in program.required:
        default = "required"
    elif setting.written(program.default(setting)):
        default = f"`{default}`"
    cells = [f"`{setting.key}`", names, setting.kind.metavar, default, _CHANGES[setting.change], setting.text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


FILES: Final[dict[str, Callable[[], str]]] = {
    "configuration.md": reference,
    "pico-node.schema.json": lambda: schema_text(NODE),
    "pico-agent.schema.json": lambda: schema_text(AGENT),
}
"""What is kept in ``docs``."""


def main(words: Sequence[str]) -> int:
    """Write the files into the directory that is named."""
    (directory,) = words
    for name, text in FILES.items():
        (Path(directory) / name).write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
