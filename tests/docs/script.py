"""A page as a script: what a reader types, where, and what the page promises to be seen.

Responsible for: the grammar of blocks and of the comments in front of them, and comparing what was said with what was
promised. Refuses to know: processes.

A block of ``sh`` is typed as it stands. In a block of ``console`` each line after ``$ `` is a command (a line that
ends in a backslash goes on in the next one, a here-document until its end), and the lines below it are what it says, if
there are any. In these ``...`` stands for anything in a line, and alone for any lines; the width of white space does
not matter. A command must succeed, unless ``echo $?`` is the next one. Comments, as the source of a page has them:

    <!-- not run: REASON -->              the next block cannot be run here
    <!-- terminal: NAME -->               the next block runs on in a terminal of its own; what is shown is waited for
    <!-- terminal: NAME on MACHINE -->    the same on a machine of its own, which has that name
    <!-- on: MACHINE, MACHINE -->         the next block is typed, or is a file, on each of these machines
    <!-- Ctrl-C: NAME -->                 before the next block, in the terminal of that name
    <!-- until -->                        the next block is typed again until it says what is shown
    <!-- file: NAME -->                   the next block is the content of a file
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.docs.pages import Block

__all__ = ["RUN", "SHOWN", "Command", "Fault", "Step", "matches", "script_of", "steps_of"]

RUN = ("console", "sh")
SHOWN = (
    "text",
    "yaml",
    "ini",
    "json",
    "http",
    "nginx",
    "toml",
    "python",
    "css",
    "promql",
    "caddy",
    "haproxy",
    "mermaid",
)
DIRECTIVE = re.compile(r"\{[a-z-]+\}.*")
PROMPT = "$ "
ANYTHING = "..."

_NOTE = re.compile(
    r"(?P<skip>not run): (?P<reason>.+)"
    r"|terminal: (?P<terminal>[a-z0-9-]+)(?: on (?P<machine>[a-z0-9.-]+))?"
    r"|on: (?P<on>[a-z0-9., -]+)"
    r"|Ctrl-C: (?P<interrupt>[a-z0-9-]+)"
    r"|(?P<until>until)"
    r"|file: (?P<file>[A-Za-z0-9._/-]+)"
    r"|(?P<other>generated.+|end of what is generated|Made by .+)",
    re.DOTALL,
)
_HEREDOC = re.compile(r"<<-?\s*'?([A-Za-z_]+)'?")


class Fault(Exception):
    """A page that is not written as it must be."""


@dataclass(frozen=True)
class Command:
    """What is typed, and what it is to say; None: the page does not say."""

    text: str
    output: tuple[str, ...] | None = None


@dataclass
class Step:
    """A block with what its comments ask for."""

    block: Block
    commands: list[Command] = field(default_factory=list)
    reason: str = ""
    """Why it is not run."""
    terminal: str = ""
    machines: list[str] = field(default_factory=lambda: [""])
    """Where it is typed; a name that is empty is the reader's own."""
    interrupts: list[str] = field(default_factory=list)
    until: bool = False
    file: str = ""


def steps_of(blocks: Sequence[Block]) -> Iterator[Step]:
    """What a reader does with the blocks of a page, one after the other. Raises ``Fault``."""
    for block in blocks:
        step = Step(block)
        for note in block.notes:
            _apply(step, note)
        if block.language in RUN:
            step.commands = script_of(block)
        elif block.language not in SHOWN and not DIRECTIVE.fullmatch(block.language):
            known = ", ".join([*RUN, *SHOWN])
            raise Fault(f"{block.name}: a block of {block.language or 'no language'}: one of {known}")
        elif step.terminal or step.until or step.reason:
            raise Fault(f"{block.name}: a block of {block.language} is not run")
        yield step


def script_of(block: Block) -> list[Command]:
    """The commands of a block. Raises ``Fault`` for one without."""
    if block.language == "sh":
        return [Command(block.text)]
    commands: list[Command] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith(PROMPT):
            commands.append(Command(_typed(line[len(PROMPT) :], lines)))
        elif not commands:
            raise Fault(f"{block.name}: a block of console begins with a command: '$ ...'")
        else:
            last = commands[-1]
            commands[-1] = Command(last.text, (*(last.output or ()), line))
    if not commands:
        raise Fault(f"{block.name}: a block of console without a command")
    return commands


def matches(said: str, promised: Sequence[str], *, more: bool = False) -> bool:
    """Whether a program said what was promised; with ``more`` it may have said something behind it."""
    pattern = "".join(rf"(?:{_any_lines(line)})" for line in promised)
    lines = "".join(_even(line) + "\n" for line in said.rstrip().splitlines())
    compiled = re.compile(pattern)
    return bool(compiled.match(lines) if more else compiled.fullmatch(lines))


def _any_lines(line: str) -> str:
    if line.strip() == ANYTHING:
        return r"(?:.*\n)*?"
    return ".*".join(re.escape(part) for part in _even(line).split(ANYTHING)) + r"\n"


def _even(line: str) -> str:
    return " ".join(line.split())


def _typed(first: str, lines: Iterator[str]) -> str:
    typed = [first]
    while typed[-1].endswith("\\"):
        typed.append(next(lines, "").removeprefix("> "))
    if here := _HEREDOC.search(first):
        while typed[-1].strip() != here[1]:
            line = next(lines, None)
            if line is None:
                raise Fault(f"the here-document of {first!r} does not end")
            typed.append(line)
    return "\n".join(typed)


def _apply(step: Step, note: str) -> None:
    found = _NOTE.fullmatch(note)
    if found is None:
        raise Fault(f"{step.block.name}: what is meant by the comment {note!r}?")
    if found["skip"]:
        step.reason = found["reason"]
    elif found["terminal"]:
        step.terminal, step.machines = found["terminal"], [found["machine"] or ""]
    elif found["on"]:
        step.machines = found["on"].split(", ")
    elif found["interrupt"]:
        step.interrupts.append(found["interrupt"])
    elif found["until"]:
        step.until = True
    elif found["file"]:
        step.file = found["file"]
