"""Types the commands of one page on a machine that is made for it: ``python -m tests.docs.play PAGE``.

Responsible for: the machines (a network, processes, host names and a directory for each), the terminals on them, typing
what the script says and saying what went wrong. Refuses to know: how a page is written.

The process that runs this is the first one of a PID namespace, so nothing that a page starts outlives it, and nothing
that a page kills is anybody else's; and the first one of a network namespace, so every port is free and is meant as
it is written.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.docs.pages import ROOT, blocks_of
from tests.docs.script import Command, Step, matches, steps_of

__all__ = ["command_of", "why_not"]

COMMAND_S = 90.0
SHOWN_S = 30.0
END_S = 40.0
POLL_S = 0.02
OWN = "here"
"""The directory of the reader's own machine; the others have their names."""
COPY = """#!/bin/bash
host="${!#}"
exec cp "${@:1:$#-1}" "$HOME/../${host%:}/"
"""
"""What ``scp FILE... HOST:`` does among the machines of a page: no file is on two of them unless the page copies it."""
PROGRAMS = {"pico-node": "pico.cli.node", "pico-agent": "pico.cli.agent", "pico": "pico.cli.pico"}
NOT_IN_A_CHECKOUT = (".venv", "build", ".git", "dist", ".hypothesis", ".pytest_cache", ".ruff_cache", ".mypy_cache")


def isolation() -> list[str]:
    """What stands before a command that is to run on a machine of its own."""
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]


def why_not() -> str:
    """Why no command can be run here; empty when they can."""
    for program in ("unshare", "ip", "bash", "curl", "make", "openssl", "pgrep"):
        if shutil.which(program) is None:
            return f"the commands of the pages need the program {program}"
    tried = subprocess.run([*isolation(), "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def command_of(page: Path) -> list[str]:
    """What plays a page."""
    return [*isolation(), sys.executable, "-m", "tests.docs.play", str(page)]


class Wrong(Exception):
    """A command did not do what its page says."""


class Shell:
    """The terminal in which a reader types one command after the other; it keeps directory and variables."""

    MARK = "--- typed, and ended with"

    def __init__(self, directory: Path, environment: dict[str, str], within: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*within, "bash", "--norc", "--noprofile"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._code = 0

    def type(self, command: str) -> tuple[str, int]:
        """What it says, and its exit code, which the next command may ask for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        script = f"(exit {self._code})\n{{ {command}\n}} </dev/null\nprintf '\\n{self.MARK} %d\\n' $?\n"
        self._process.stdin.write(script)
        self._process.stdin.flush()
        said = ""
        signal.alarm(int(COMMAND_S))
        for line in self._process.stdout:
            if line.startswith(self.MARK):
                self._code = int(line.split()[-1])
                break
            said += line
        else:
            raise Wrong(f"the shell ended at {command!r}:\n{said}")
        signal.alarm(0)
        return said.removesuffix("\n"), self._code


class Terminal:
    """A terminal in which one thing runs on."""

    def __init__(self, name: str, command: str, directory: Path, environment: dict[str, str], within: Sequence[str]):
        self.name = name
        self._log = directory / f".{name}.said"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*within, "bash", "--norc", "--noprofile", "-c", command],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, promised: Sequence[str]) -> None:
        """Wait until it has said what is shown."""
        deadline = time.monotonic() + SHOWN_S
        while not matches(self.said, promised, more=True):
            if self._process.poll() is not None and not matches(self.said, promised, more=True):
                raise Wrong(f"terminal {self.name} ended with {self._process.returncode} and said\n{self.said}")
            if time.monotonic() > deadline:
                raise Wrong(f"terminal {self.name} said\n{self.said}\nand not\n" + "\n".join(promised))
            time.sleep(POLL_S)

    def interrupt(self) -> None:
        """Ctrl-C, and what runs there has so long to end."""
        os.killpg(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired as error:
            raise Wrong(f"terminal {self.name} did not end after Ctrl-C and said\n{self.said}") from error


class Machines:
    """Where the commands of one page are typed."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._directories = {name: root / (name or OWN) for name in ("", *names)}
        self._environments = {name: _checkout(directory) for name, directory in self._directories.items()}
        self._shells: dict[str, Shell] = {}
        self._terminals: dict[str, Terminal] = {}

    def play(self, step: Step) -> None:
        """Do what one block says. Raises ``Wrong``."""
        for name in step.interrupts:
            self._terminals.pop(name).interrupt()
        if step.reason:
            return
        if step.file:
            for machine in step.machines:
                path = self._directories[machine] / step.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.block.text + "\n")
        elif step.terminal:
            self._run_on(step)
        elif step.until:
            for machine in step.machines:
                self._type_until(self._shell(machine), step.commands)
        else:
            for machine in step.machines:
                self._type(self._shell(machine), step.commands)

    def said(self) -> str:
        """What all terminals show."""
        return "".join(f"--- terminal {name}\n{one.said}\n" for name, one in self._terminals.items())

    def _shell(self, machine: str) -> Shell:
        if machine not in self._shells:
            self._shells[machine] = Shell(self._directories[machine], self._environments[machine], _on(machine))
        return self._shells[machine]

    def _run_on(self, step: Step) -> None:
        if step.terminal in self._terminals:
            raise Wrong(f"something runs in terminal {step.terminal} already")
        *before, last = step.commands
        command = "\n".join([*(one.text for one in before), last.text])
        machine = step.machines[0]
        directory, environment = self._directories[machine], self._environments[machine]
        terminal = Terminal(step.terminal, command, directory, environment, _on(machine))
        self._terminals[step.terminal] = terminal
        terminal.until(last.output or ())

    def _type(self, shell: Shell, commands: Sequence[Command]) -> None:
        for command, following in itertools.zip_longest(commands, commands[1:]):
            said, code = shell.type(command.text)
            if code and not (following and following.text == "echo $?"):
                raise Wrong(f"$ {command.text}\nended with {code} and said\n{said}")
            if command.output is not None and not matches(said, command.output):
                raise Wrong(f"$ {command.text}\nsaid\n{said}\nand not\n" + "\n".join(command.output))

    def _type_until(self, shell: Shell, commands: Sequence[Command]) -> None:
        deadline = time.monotonic() + SHOWN_S
        while True:
            try:
                return self._type(shell, commands)
            except Wrong:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)


def _on(machine: str) -> list[str]:
    """What stands before a command that is to run on that machine."""
    return ["ip", "netns", "exec", machine] if machine else []


def _checkout(directory: Path) -> dict[str, str]:
    """A directory that looks like a checkout with everything installed; what the shell has as its environment."""
    directory.mkdir()
    for path in ROOT.iterdir():
        if path.name not in NOT_IN_A_CHECKOUT:
            (directory / path.name).symlink_to(path)
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in PROGRAMS.items():
        (programs / name).write_text(
            f"#!{sys.executable}\nimport sys\n\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from {module} import main\n\nsys.exit(main())\n"
        )
        (programs / name).chmod(0o755)
    (programs / "scp").write_text(COPY)
    (programs / "scp").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    for stamp in (".installed", ".installed-dev"):
        (directory / ".venv" / stamp).touch()
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    path = f"{programs}:{os.environ['PATH']}"
    return kept | {"PATH": path, "HOME": str(directory), "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "120"}


# -- the network -------------------------------------------------------------------------------------------------------


def _network(machines: Sequence[str], directory: Path) -> None:
    """Loopback; and for each machine a namespace of its name on one switch, known to all by its name."""
    _ip("link", "set", "lo", "up")
    if not machines:
        return
    hosts = {name: f"10.77.0.{number}" for number, name in enumerate(machines, 1)}
    known = directory / "hosts"
    own = Path("/etc/hosts").read_text()
    known.write_text(own + "".join(f"{address} {name}\n" for name, address in hosts.items()))
    _run("mount", "--bind", str(known), "/etc/hosts")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")  # also for who is root here only
    Path("/run/netns").mkdir()
    _ip("link", "add", "br0", "type", "bridge")
    _ip("addr", "add", "10.77.0.254/24", "dev", "br0")
    _ip("link", "set", "br0", "up")
    for number, (name, address) in enumerate(hosts.items(), 1):
        _ip("netns", "add", name)
        _ip("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"port{number}", "master", "br0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10)


# -- one page ----------------------------------------------------------------------------------------------------------


def main(page: Path) -> int:
    """Play it; 1 with the reason on standard output when something is not as the page says."""
    if os.getpid() != 1:
        print("this plays on a machine of its own only: unshare --pid --fork --net --mount-proc")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.signal(signal.SIGALRM, _too_long)
    steps = list(steps_of(blocks_of(page)))
    with tempfile.TemporaryDirectory(prefix="pico-page-") as name:
        directory = Path(name)
        names = list(dict.fromkeys(name for step in steps for name in step.machines if name))
        _network(names, directory)
        machines = Machines(directory, names)
        for step in steps:
            try:
                machines.play(step)
            except Wrong as wrong:
                print(f"{step.block.name}\n{wrong}\n{machines.said()}")
                return 1
        if trace := re.search(r"Traceback \(most recent call last\)", machines.said()):
            print(f"{trace[0]}\n{machines.said()}")
            return 1
    return 0


def _too_long(*_: object) -> None:
    raise Wrong(f"a command did not end within {COMMAND_S:.0f} s")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
