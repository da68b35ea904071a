"""What an operator can meet is in the documentation: codes, alerts, lines of the log, options."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from pico.cli import pico as commands
from pico.cli.agent_options import AGENT
from pico.cli.command_line import parse
from pico.cli.node_options import NODE
from pico.cli.status import PAGES
from pico.protocol.http.failures import Failure
from tests.docs.pages import ROOT, anchors_of, blocks_of, pages

TROUBLE = ROOT / "docs" / "troubleshooting.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
SERIOUS = ("warning", "error", "exception", "critical")
COMMAND_LINE = ROOT / "pico" / "cli"


def lines_of(levels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every line that a node or an agent writes at these levels, with ``...`` for what is filled in, and where."""
    for path in sorted((ROOT / "pico").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in levels
                and ast.unparse(call.func.value) == "_log"
            ):
                first = call.args[0]
                assert isinstance(first, ast.Constant), f"{path}:{call.lineno}: a line that cannot be looked for"
                yield re.sub(r"(?:%[-0-9.]*[a-z])+", "...", str(first.value)), f"{path.name}:{call.lineno}"


COMPLAINTS = dict(lines_of(SERIOUS))


@pytest.mark.parametrize("line", COMPLAINTS)
def test_a_warning_or_an_error_is_explained(line: str) -> None:
    assert f"`{line}`" in TROUBLE.read_text(), f"{COMPLAINTS[line]}: explain it in {TROUBLE.name}"


def test_only_lines_that_are_written_are_explained() -> None:
    explained = TROUBLE.read_text().partition("## By line in the log")[2]
    cells = [row.split("|")[1] for row in explained.splitlines() if row.startswith("| `")]
    lines = {line for cell in cells for line in re.findall(r"`([^`]+)`", cell)}
    assert not lines - set(COMPLAINTS)
    assert len(lines) > 10


def test_only_lines_that_are_written_are_shown_as_ordinary_ones() -> None:
    shown = (ROOT / "docs" / "logs.md").read_text().partition("| line | means |")[2].partition("\n\n")[0]
    lines = {line for row in shown.splitlines() for line in re.findall(r"`([^`]+)`", row.split("|")[1] if row else "")}
    assert len(lines) > 8
    assert not lines - set(dict(lines_of(("info",))))


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.code)
def test_a_status_code_has_its_section(failure: Failure) -> None:
    assert f"{failure.status}-{failure.code}" in anchors_of(TROUBLE)


def codes_of_the_admin_door() -> set[str]:
    sources = [path.read_text() for path in (ROOT / "pico").rglob("*.py")]
    codes = {code for text in sources for code in re.findall(r"\bRefused\(\s*\d+,\s*\"([a-z_]+)\"", text)}
    codes |= set(
        re.findall(r"return \"([a-z_]+)\", ", (ROOT / "pico" / "observability" / "admin_guard.py").read_text())
    )
    codes |= {
        f"unknown_{what}"
        for text in sources
        for what in re.findall(r"\b(?:no_such\(|_one\(request, )\"([a-z]+)\"", text)
    }
    codes |= {f"node_{why}" for text in sources for why in re.findall(r"\bNoAnswer\(\"([a-z_]+)\"", text)}
    assert {"not_found", "not_loopback", "unknown_upstream", "node_timeout"} <= codes
    return codes


def test_the_codes_of_the_admin_door_are_explained() -> None:
    page = (ROOT / "docs" / "status-codes.md").read_text().partition("## At the admin door")[2]
    rows = [row.split("|") for row in page.splitlines() if re.match(r"\| \d", row)]
    assert {code for row in rows for code in re.findall(r"`([a-z_]+)`", row[2])} == codes_of_the_admin_door()


def test_the_codes_of_the_admin_door_are_described() -> None:
    described = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
    refused = described["components"]["responses"]["Refused"]["content"]["application/json"]["schema"]
    assert set(refused["properties"]["error"]["properties"]["code"]["enum"]) == codes_of_the_admin_door()


def test_an_alert_has_its_section() -> None:
    names = re.findall(r"^ *- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE) if ALERTS.exists() else []
    assert not {kebab(name) for name in names} - anchors_of(TROUBLE)


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def options() -> set[str]:
    """Every option of every program."""
    texts = [NODE.usage, AGENT.usage, commands.USAGE]
    texts += [getattr(import_module(one.module), one.usage) for one in commands.COMMANDS.values()]
    return set(re.findall(r"--[a-z][a-z0-9-]*", "\n".join(texts)))


@pytest.mark.parametrize("page", [page for page in pages() if "spec" not in page.parts], ids=lambda page: page.name)
def test_an_option_that_is_named_exists(page: Path) -> None:
    """As a word of its own between backquotes; longer pieces of code may be of other programs."""
    named = set(re.findall(r"`(--[a-z][a-z0-9-]*)(?:=[^`]*)?`", page.read_text()))
    assert not named - options()


def test_the_names_of_alerts_become_anchors() -> None:
    assert kebab("PicoNodeDown") == "pico-node-down"


UNITS = {"": "", "s": "s", "ms": "ms", "minute": "m", "minutes": "m", "hour": "h", "KiB": "KiB", "MiB": "MiB"}
DEFAULT = re.compile(r"`(--[a-z-]+)`(?: \(| \| )([0-9]+) ?(ms|s|minutes?|hour|KiB|MiB|)(?=\)| \|)")


def defaults() -> set[tuple[str, str]]:
    """Every option of the two programs with its default."""
    found: set[tuple[str, str]] = set()
    for text in (NODE.usage, AGENT.usage):
        found |= set(
            re.findall(r"^ *(--[a-z-]+)=\S+(?:(?!^ *--).)*?default: ([^\s,]+)$", text, re.MULTILINE | re.DOTALL)
        )
    return found


@pytest.mark.parametrize("page", [page for page in pages() if page.parent.name == "docs"], ids=lambda page: page.name)
def test_a_default_that_is_named_is_the_default(page: Path) -> None:
    named = {(option, number + UNITS[unit]) for option, number, unit in DEFAULT.findall(page.read_text())}
    assert not named - defaults()


def test_defaults_are_found_in_usage_texts_and_in_pages() -> None:
    assert {
        ("--proxy-port", "8000"),
        ("--silence", "6s"),
        ("--silence", "15s"),
        ("--grace-period", "30s"),
    } <= defaults()
    assert DEFAULT.findall("`--a-b` (20 s) and | `--c` | 10000 |") == [("--a-b", "20", "s"), ("--c", "10000", "")]


INLINE = sorted({line for page in pages() for line in re.findall(r"`pico ([a-z][^`]*)`", page.read_text())})


@pytest.mark.parametrize("line", INLINE)
def test_a_command_within_a_sentence_is_one(line: str) -> None:
    """Its words fit the usage text; whether it does what the sentence says, the blocks show."""
    name, *words = line.split()
    if name == "version" or words == ["--help"]:
        return
    command = commands.COMMANDS[name]
    usage = getattr(import_module(command.module), command.usage)
    optional = words or {"disconnect": ["a-u1"], "forget": ["a"], "log-level": ["info"], "config": ["show"]}.get(
        name, []
    )
    arguments = parse(usage, optional, program=f"pico {name}", commands=command.commands)
    if name == "status":
        assert arguments["<what>"] in {None, *PAGES}
    if name == "config":
        assert arguments["<command>"] in {"check", "show", "schema"}


def test_there_are_commands_within_sentences() -> None:
    assert {"status nodes", "config check FILE"} <= set(INLINE)


METRICS = set(re.findall(r"^\| `(pico_[a-z_]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
SUFFIXES = r"_(?:bucket|count|sum)$"


@pytest.mark.parametrize("page", [page for page in pages() if "spec" not in page.parts], ids=lambda page: page.name)
def test_a_metric_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"`(pico_[a-z_]+)(?:\{[^`]*)?`", page.read_text()))
    assert not {re.sub(SUFFIXES, "", name) for name in named} - METRICS


def test_there_are_metrics() -> None:
    assert {"pico_requests_total", "pico_gossip_nodes"} <= METRICS


SAMPLES = [
    (f"{block.page.name}:{block.line}", match[1], block.text)
    for page in pages()
    for block in blocks_of(page)
    if block.language == "yaml" and (match := re.match(r"# (node|agent)\.yaml\n", block.text))
]


@pytest.mark.parametrize("program,text", [sample[1:] for sample in SAMPLES], ids=[sample[0] for sample in SAMPLES])
def test_a_sample_of_a_configuration_file_has_names_that_exist(program: str, text: str) -> None:
    schema = json.loads((ROOT / "docs" / f"pico-{program}.schema.json").read_text())
    assert not set(yaml.safe_load(text)) - set(schema["properties"])


def test_there_are_samples_for_both_programs() -> None:
    assert {sample[1] for sample in SAMPLES} == {"node", "agent"}
