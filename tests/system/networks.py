"""Machines of their own for real processes: network namespaces on one switch, from which packets can be dropped.

Responsible for: making the namespaces, cutting the way from one machine to another without anybody being told, and
removing all of it by name. Refuses to know: what runs on the machines.

A machine whose table says a wrong hardware address for another one sends into the void: no error, no carrier lost, as
when a switch drops the packets. So each direction can be cut by itself. The machine ``hub`` is where clients are.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

__all__ = ["Network", "why_not"]

HUB = "hub"
NOBODY = "02:00:00:00:de:ad"
CLONE_NEWNET = 0x40000000

Given = TypeVar("Given")
_serial = itertools.count(1)


def why_not() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if shutil.which("ip") is None:
        return "no network namespaces: the program ip is not installed"
    name = f"pico-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    if tried.returncode:
        return f"no network namespaces: {tried.stderr.strip()}"
    with Network([]) as network:
        return network.why_not


class Network:
    """The machines of these names; leaving the ``with`` block removes them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"pico-{os.getpid()}-{next(_serial)}-"
        self.names = [HUB, *names]
        self.why_not = ""
        self._made: list[str] = []
        self._hardware: dict[str, str] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._inside = ThreadPoolExecutor(1, initializer=self.enter_hub)

    def __enter__(self) -> Network:
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.why_not = f"no network of namespaces: {error.stderr.strip()}"
            if len(self.names) > 1:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inside.shutdown()
        for name in self._made:
            subprocess.run(["ip", "netns", "del", self.namespace(name)], capture_output=True)

    def namespace(self, name: str) -> str:
        return self._prefix + name

    def host(self, name: str) -> str:
        """The address of a machine."""
        return f"10.213.0.{self.names.index(name) + 1}"

    def within(self, name: str) -> list[str]:
        """What stands before a command that is to run on that machine."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def enter_hub(self) -> None:
        """Have the calling thread be on the hub from now on."""
        with Path(f"/run/netns/{self.namespace(HUB)}").open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def call(self, function: Callable[..., Given], *arguments: object) -> Given:
        """What a function gives that is called on the hub."""
        return self._inside.submit(function, *arguments).result(30)

    def cut(self, source: str, target: str) -> None:
        """Drop every packet from one machine to another."""
        self._cuts.add((source, target))
        self._ip(source, "neigh", "replace", self.host(target), "lladdr", NOBODY, "nud", "permanent", "dev", "eth0")

    def isolate(self, name: str, *others: str) -> None:
        """Drop every packet between one machine and these, or all."""
        for other in others or self.names:
            if other != name:
                self.cut(name, other)
                self.cut(other, name)

    def heal(self) -> None:
        """Drop nothing any more."""
        for source, target in self._cuts:
            self._ip(source, "neigh", "replace", self.host(target), "lladdr", self._hardware[target], "dev", "eth0")
        self._cuts.clear()

    def _make(self) -> None:
        for name in self.names:
            _run("ip", "netns", "add", self.namespace(name))
            self._made.append(name)
            self._ip(name, "link", "set", "lo", "up")
        self._ip(HUB, "link", "add", "br0", "type", "bridge")
        self._ip(HUB, "link", "set", "br0", "up")
        for number, name in enumerate(self.names):
            port = f"port{number}"
            self._ip(HUB, "link", "add", port, "type", "veth", "peer", "name", f"far{number}")
            self._ip(HUB, "link", "set", port, "master", "br0", "up")
            if name != HUB:
                self._ip(HUB, "link", "set", f"far{number}", "netns", self.namespace(name))
            self._ip(name, "link", "set", f"far{number}", "name", "eth0")
            self._ip(name, "addr", "add", f"{self.host(name)}/24", "dev", "eth0")
            self._ip(name, "link", "set", "eth0", "up")
            shown = _run(*self.within(name), "cat", "/sys/class/net/eth0/address")
            self._hardware[name] = shown.strip()

    def _ip(self, name: str, *words: str) -> None:
        _run("ip", "-n", self.namespace(name), *words)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
