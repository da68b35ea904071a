"""Every command in the documentation is run, as a reader would: page by page, in order, on a machine of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks_of, pages
from tests.docs.play import command_of, why_not
from tests.docs.script import RUN, Command, Fault, Step, matches, script_of, steps_of

PAGE_S = 240
"""On a machine that others need, too."""

pytestmark = pytest.mark.timeout(300)
WITHOUT_COMMANDS = ("spec", "ARCHITECTURE.md", "CHANGELOG.md")
WITH_COMMANDS = [page for page in pages() if page.relative_to(ROOT).parts[0] not in WITHOUT_COMMANDS]
NOT_RUN = [step for page in WITH_COMMANDS for step in steps_of(blocks_of(page)) if step.reason]
TO_RUN = [
    page for page in WITH_COMMANDS if any(step.commands and not step.reason for step in steps_of(blocks_of(page)))
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", TO_RUN, ids=name_of)
def test_the_commands_of_a_page_do_what_it_says(page: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    played = subprocess.run(command_of(page), cwd=ROOT, capture_output=True, text=True, timeout=PAGE_S)
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.parametrize("step", NOT_RUN, ids=lambda step: step.block.name)
def test_what_is_not_run_is_listed_with_its_reason(step: Step) -> None:
    """Never silently: each appears as skipped, with the reason that its page gives."""
    first = step.commands[0].text.splitlines()[0]
    pytest.skip(f"{first} ... {step.reason}")


@pytest.mark.parametrize("step", NOT_RUN, ids=lambda step: step.block.name)
def test_a_test_that_is_named_as_the_reason_exists(step: Step) -> None:
    named = re.findall(r"\btests/[a-z_/]+\.py", step.reason)
    assert not [path for path in named if not (ROOT / path).is_file()]


# The player itself.


def block(text: str, language: str = "console", *notes: str) -> Block:
    return Block(ROOT / "README.md", 1, language, text, notes)


def test_a_console_is_commands_and_what_they_say() -> None:
    assert script_of(block("$ one \\\n  two\n$ three\nfour\nfive")) == [
        Command("one \\\n  two"),
        Command("three", ("four", "five")),
    ]


def test_a_here_document_is_one_command() -> None:
    assert script_of(block("$ cat > f <<EOF\nline\nEOF\n$ cat f\nline")) == [
        Command("cat > f <<EOF\nline\nEOF"),
        Command("cat f", ("line",)),
    ]


@pytest.mark.parametrize(
    "said,promised,same",
    [
        ("a  b\n", ["a b"], True),
        ("a b", ["a ..."], True),
        ("a\nb\nc", ["a", "...", "c"], True),
        ("a\nc", ["a", "...", "c"], True),
        ("a\nb", ["a"], False),
        ("b", ["a"], False),
        ("", ["a"], False),
        ("a.b", ["a+b"], False),
    ],
)
def test_what_is_said_is_compared_with_what_is_promised(said: str, promised: list[str], same: bool) -> None:
    assert matches(said, promised) is same


def test_a_terminal_may_say_more() -> None:
    assert matches("a\nb", ["a"], more=True)


@pytest.mark.parametrize(
    "given,complaint",
    [
        (block("ls", ""), "a block of no language"),
        (block("ls", "fortran"), "a block of fortran"),
        (block("ls"), "begins with a command"),
        (block("$ ls", "console", "not ran: because"), "what is meant by the comment"),
        (block("x: 1", "yaml", "until"), "is not run"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_page_that_is_not_written_as_it_must_be_is_refused(given: Block, complaint: str) -> None:
    with pytest.raises(Fault, match=complaint):
        list(steps_of([given]))


@pytest.mark.parametrize(
    "text,complaint",
    [
        ("```console\n$ true\n$ false\n```\n", "ended with 1"),
        ("```console\n$ echo one\ntwo\n```\n", "and not\ntwo"),
        ("<!-- terminal: a -->\n```console\n$ echo one\ntwo\n```\n", "terminal a ended with 0 and said\none"),
        ("```console\n$ exit 3\n$ true\n```\n", "the shell ended"),
    ],
)
def test_a_command_that_does_something_else_is_found(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in played(tmp_path, text, 1)


def test_a_command_may_fail_when_its_code_is_asked_for(tmp_path: Path) -> None:
    played(tmp_path, "```console\n$ (exit 3)\n$ echo $?\n3\n```\n", 0)


def test_a_terminal_runs_on_until_ctrl_c(tmp_path: Path) -> None:
    page = (
        "<!-- file: said -->\n```text\nhello\n```\n"
        "<!-- terminal: cat -->\n```console\n$ cat said; exec sleep 1000\nhello\n```\n"
        "```console\n$ pgrep -c sleep\n1\n```\n"
        "<!-- Ctrl-C: cat -->\n```console\n$ pgrep -c sleep\n0\n$ echo $?\n1\n```\n"
    )
    played(tmp_path, page, 0)


def test_machines_know_one_another_by_name(tmp_path: Path) -> None:
    page = (
        "<!-- terminal: web on a.internal -->\n```sh\npython3 -m http.server 3000\n```\n"
        "<!-- until -->\n```console\n$ curl -sS -o /dev/null -w '%{http_code}\\n' http://a.internal:3000/\n200\n```\n"
    )
    played(tmp_path, page, 0)


def test_a_file_is_on_the_machine_on_which_it_was_made_until_it_is_copied(tmp_path: Path) -> None:
    page = (
        "<!-- on: a.internal -->\n```sh\necho one > file\n```\n"
        "<!-- on: b.internal -->\n<!-- file: other -->\n```text\ntwo\n```\n"
        "<!-- on: b.internal -->\n```console\n$ cat other; test -e file\ntwo\n$ echo $?\n1\n```\n"
        "<!-- on: a.internal -->\n```sh\nscp file b.internal:\n```\n"
        "<!-- on: b.internal -->\n```console\n$ cat file\none\n```\n"
    )
    played(tmp_path, page, 0)


def played(directory: Path, text: str, code: int) -> str:
    """What the player says of a page that is made up."""
    if reason := why_not():
        pytest.skip(reason)
    page = ROOT / "README.md"
    made = directory / "page.md"
    made.write_text(text)
    command = [str(made) if word == str(page) else word for word in command_of(page)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PAGE_S)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def test_the_player_plays_on_a_machine_of_its_own_only() -> None:
    command = [sys.executable, "-m", "tests.docs.play", str(ROOT / "README.md")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PAGE_S)
    assert (result.returncode, "a machine of its own" in result.stdout) == (2, True)


def test_blocks_that_are_run_exist() -> None:
    assert set(RUN) == {"console", "sh"}
    assert TO_RUN
