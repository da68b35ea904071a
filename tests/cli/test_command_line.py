"""What is wrong on a command line is named, in one line; nothing is guessed, completed or corrected."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico import __version__
from pico.cli.command_line import UsageError, guarded, parse
from pico.compiling import is_compiled
from pico.errors import ConfigError, ConnectFailed

USAGE = """\
prog: does things.

Usage:
  prog (--to=PLACE)... [--also=PLACE]... [options] [<name>]

  -h, --help      this text
  --version       the version
  --to=PLACE      where to,
                  on two lines
  --also=PLACE    where else
  -v, --verbose   says more
  --limit=COUNT   how many
"""

COMMANDS = """\
Usage:
  prog [--quiet] <command> [<arguments>...]

  --quiet   says less
"""


def parsed(*words: str) -> dict[str, object]:
    return dict(parse(USAGE, words, program="prog"))


def test_words_become_values() -> None:
    assert parsed("--to", "a", "name", "--to=b", "-v", "--limit=7") == {
        "--to": ["a", "b"],
        "--also": [],
        "--help": False,
        "--version": False,
        "--verbose": True,
        "--limit": "7",
        "<name>": "name",
    }


def test_a_value_may_be_empty_or_look_like_an_option() -> None:
    assert parsed("--to=", "--limit", "--version")["--limit"] == "--version"
    assert parsed("--to=", "--limit=a=b")["--limit"] == "a=b"


@pytest.mark.parametrize(
    "words,complaint",
    [
        (["--to=a", "--frob"], "unknown option --frob"),
        (["--to=a", "--verb"], "unknown option --verb; write --verbose in full"),
        (["--to=a", "--VERBOSE"], "unknown option --VERBOSE"),
        (["--to=a", "--limits=1"], "unknown option --limits"),
        (["--to=a", "-x"], "unknown option -x"),
        (["--to=a", "-vv"], "unknown option -vv"),
        (["--to=a", "--verbose=1"], "--verbose takes no value"),
        (["--to=a", "--limit"], "--limit needs a value"),
        (["--to=a", "--limit=1", "--limit=2"], "--limit is given twice"),
        (["--to=a", "-v", "--verbose"], "--verbose is given twice"),
        (["--limit=1"], "--to is missing"),
        (["--to=a", "one", "two"], "unexpected argument 'two'"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*words)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    "words,complaint",
    [
        ([], "the node is missing"),
        (["a"], "the upstream is missing"),
        (["a", "b", "c", "d"], "unexpected argument 'd'"),
    ],
)
def test_the_first_word_without_a_place_is_named_and_the_first_place_without_a_word(
    words: list[str], complaint: str
) -> None:
    usage = "Usage:\n  prog <node> <upstream> [<more>] [--quiet]\n\n  --quiet   says less than <none>\n"
    with pytest.raises(UsageError) as caught:
        parse(usage, words, program="prog")
    assert str(caught.value) == complaint


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=6))
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    try:
        parsed(*words)
    except UsageError as error:
        assert str(error)
    except SystemExit as left:
        assert left.code == 0


@given(st.sampled_from(["--verbose", "--limit", "--also", "--version"]), st.data())
def test_no_abbreviation_is_accepted(option: str, data: st.DataObject) -> None:
    abbreviated = option[: data.draw(st.integers(3, len(option) - 1))]
    with pytest.raises(UsageError):
        parsed("--to=a", abbreviated)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--limit=1", "--help"]])
def test_help_is_the_text_even_when_something_is_missing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parsed(*words)
    assert left.value.code == 0
    assert capsys.readouterr().out.strip() == USAGE.strip()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parsed("--version")
    assert (left.value.code, capsys.readouterr().out) == (0, f"prog {__version__}\n")


def test_the_options_of_a_command_are_its_own() -> None:
    arguments = parse(COMMANDS, ["--quiet", "run", "--fast", "-x"], program="prog", commands=True)
    assert (arguments["--quiet"], arguments["<command>"], arguments["<arguments>"]) == (True, "run", ["--fast", "-x"])


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    "error,code,line",
    [
        (UsageError("--to is missing"), 2, "prog: --to is missing (see prog --help)\n"),
        (ConfigError("--limit", "x", "a number"), 2, "prog: --limit: 'x' is not usable: expected a number\n"),
        (ConnectFailed("nobody\nthere"), 1, "prog: nobody there\n"),
        (OSError(98, "Address already in use"), 1, "prog: Address already in use\n"),
        (FileNotFoundError(2, "No such file or directory", "/dev/x"), 1, "prog: /dev/x: No such file or directory\n"),
        (ZeroDivisionError("division by zero"), 1, "prog: internal error: ZeroDivisionError: division by zero\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_a_code_and_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("prog", raising(error)) == code
    assert capsys.readouterr().err == line


def test_a_code_passes_through() -> None:
    assert [guarded("prog", lambda: 0), guarded("prog", lambda: 7)] == [0, 7]


def run(*words: str, module: str = "pico.cli.pico") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("module", ["pico.cli.pico", "pico.cli.node", "pico.cli.agent"])
def test_every_program_tells_its_version_and_its_usage(module: str) -> None:
    program = {"pico.cli.pico": "pico", "pico.cli.node": "pico-node", "pico.cli.agent": "pico-agent"}[module]
    assert run("--version", module=module).stdout == f"{program} {__version__}\n"
    helped = run("--help", module=module)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert f"Usage:\n  {program} " in helped.stdout


NAMES = "demo, status, drain, disconnect, forget, log-level, reload, config, bench, version"


@pytest.mark.parametrize(
    "words,complaint",
    [
        ([], f"pico: name a command: {NAMES} (see pico --help)"),
        (["frob"], f"pico: unknown command frob: one of {NAMES} (see pico --help)"),
        (["version", "x"], "pico version: unexpected argument 'x' (see pico version --help)"),
        (["demo", "--onc"], "pico demo: unknown option --onc; write --once in full (see pico demo --help)"),
        (["bench", "x"], "pico bench: unexpected argument 'x' (see pico bench --help)"),
    ],
)
def test_pico_names_what_it_does_not_understand(words: list[str], complaint: str) -> None:
    ran = run(*words)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", complaint + "\n")


def test_pico_version() -> None:
    assert run("--version").stdout == f"pico {__version__}\n"


def test_pico_version_says_what_it_runs_on() -> None:
    first, *lines = run("version").stdout.splitlines()
    assert first == f"pico {__version__}, {'compiled' if is_compiled() else 'interpreted'}"
    facts = dict(line.split(" ", 1) for line in lines)
    assert list(facts) == ["python", "gevent", "pykka", "masking", "openssl", "system"]
    assert facts["python"].startswith(platform.python_version())
    assert facts["gevent"].startswith(gevent.__version__)
    assert facts["masking"] == "in C"


@pytest.mark.parametrize("command", ["demo", "bench", "version"])
def test_each_command_has_its_own_help(command: str) -> None:
    ran = run(command, "--help")
    assert ran.returncode == 0
    assert f"pico {command}" in ran.stdout


def test_a_reader_that_leaves_is_no_error_of_ours() -> None:
    """``pico --help | true``"""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pico.cli.pico", "--help"]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert ran.stderr == ""


@pytest.mark.parametrize("program", ["node", "agent", "pico"])
def test_the_code_says_what_there_is_no_room_to_write(program: str) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-m", f"pico.cli.{program}", "--frob"], stderr=full, timeout=60)
    assert ran.returncode == 2


def run_closed(closed: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python without some of its standard streams, as a shell says it."""
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


ALL_CLOSED = "<&- >&- 2>&-"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ALL_CLOSED])
def test_a_stream_that_is_closed_is_no_error(closed: str) -> None:
    ran = run_closed(closed, "-m", "pico.cli.pico", "version")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_what_is_opened_later_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what is meant for standard error could be written into a connection."""
    program = """\
import sys
from pico.cli.standard_streams import open_closed_streams
open_closed_streams()
with open(sys.argv[1], "w") as file:
    print("to nobody")
    print("to nobody", file=sys.stderr)
    file.write(f"{sys.stdin.fileno()} {sys.stdout.fileno()} {sys.stderr.fileno()} {file.fileno() > 2}")
"""
    assert run_closed(ALL_CLOSED, "-c", program, str(tmp_path / "said")).returncode == 0
    assert (tmp_path / "said").read_text() == "0 1 2 True"


def test_a_signal_that_the_caller_has_blocked_is_heard() -> None:
    """Ctrl-C, say. Of node and agent: ``tests/system/test_signals.py``."""
    program = """\
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
sys.argv = ["pico", "version"]
from pico.cli.pico import main
main()
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "set()", ran.stderr


INTERRUPTED_AT = """\
import os, signal, sys
imported = sys.argv.pop()
class Interrupt:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == imported:
            Interrupt()
sys.meta_path.insert(0, Finder())
from pico.cli.{program} import main
sys.exit(main())
"""


@pytest.mark.parametrize("program", ["node", "agent"])
@pytest.mark.parametrize("number,code", [("SIGINT", 130), ("SIGTERM", 0)])
@pytest.mark.parametrize("imported", ["gevent", "docopt", "pico.cli.sources"])
def test_an_interrupted_start_says_nothing(program: str, imported: str, number: str, code: int) -> None:
    """Whatever is being imported: what is raised in the end of an object, say, is printed and goes no further.

    A code and not the signal's own end: that does not befall process 1 of a container, which would start all the same.
    """
    begins = INTERRUPTED_AT.format(program=program, number=number)
    ran = subprocess.run([sys.executable, "-c", begins, imported], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (code, "")
