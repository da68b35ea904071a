"""The floors hold, and importing Pico changes nothing in the program that imports it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ROOT / "pico"

# The entry points patch when they are run as programs, never when they are imported.
IMPORT_EVERYTHING = """
import importlib, pkgutil, select, signal, socket, ssl, sys, threading, time

watched = {"socket": socket, "ssl": ssl, "select": select, "threading": threading, "time": time, "signal": signal}
def names():
    return {(module, name): id(value) for module, source in watched.items() for name, value in vars(source).items()
            if not name.startswith("__")}

before, handler, threads = names(), signal.getsignal(signal.SIGTERM), threading.active_count()
import pico
for module in pkgutil.walk_packages(pico.__path__, "pico."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from gevent import monkey

patched = [name for name in ("socket", "ssl", "thread", "time", "select", "os", "subprocess", "signal")
           if monkey.is_module_patched(name)]
changed = [name for name, value in before.items() if names().get(name) != value]
assert not patched, patched
assert not changed, changed
assert signal.getsignal(signal.SIGTERM) is handler
assert threading.active_count() == threads
"""


def sources() -> list[Path]:
    return sorted(PRODUCT.rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_imports_go_downward_only() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_protocol_floor_imports_the_standard_library_and_floor_0_only() -> None:
    allowed = sys.stdlib_module_names | {"pico", "cryptography"}  # which computes, and does nothing else
    strangers = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        if path.is_relative_to(PRODUCT / "protocol")
        for name in imported_by(path)
        if name.partition(".")[0] not in allowed
    }
    assert not strangers


def patches(path: Path) -> bool:
    """Whether it calls anything that patches; to ask gevent for an original is harmless."""
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    names |= {name.rpartition(".")[2] for name in imported_by(path)}
    return any(name.startswith("patch_") for name in names)


def test_only_the_entry_points_patch() -> None:
    cli = PRODUCT / "cli"
    assert {path for path in sources() if patches(path)} == {cli / "starting.py"}
    users = {path for path in sources() if "pico.cli.starting" in imported_by(path)}
    assert users == {cli / "node.py", cli / "agent.py"}


def test_importing_pico_changes_nothing() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_its_theory(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "the first line says what the file is responsible for"
