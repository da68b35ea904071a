"""The list of what is compiled, and what mypyc would compile into something else than it says."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

import pico
from pico.compiling import is_compiled

ROOT = Path(__file__).parents[1]


def listed() -> tuple[str, ...]:
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            names = ast.literal_eval(node.value)
            assert isinstance(names, tuple)
            return names
    raise AssertionError("setup.py lists nothing")


MODULES = listed()


def test_each_module_is_there_and_named_once() -> None:
    assert len(set(MODULES)) == len(MODULES)
    assert [name for name in MODULES if not (ROOT / name).is_file()] == []


def test_a_wish_that_means_nothing_is_refused() -> None:
    environment = os.environ | {"PICO_COMPILE": "maybe"}
    said = subprocess.run(
        [sys.executable, "setup.py", "--name"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 1
    assert said.stderr.strip() == "PICO_COMPILE is 'maybe', but only 0 and 1 mean something"


@pytest.mark.skipif(
    Path(pico.__file__).parents[1].name != "compiled", reason="this tree is not that of `make compiled`"
)
def test_what_is_listed_is_compiled_where_it_can_be() -> None:
    can_be = shutil.which("cc") and Path(sysconfig.get_path("include"), "Python.h").is_file()
    assert is_compiled() == bool(can_be)
    extensions = {path.relative_to(ROOT).as_posix().partition(".")[0] for path in (ROOT / "pico").rglob("*.so")}
    assert extensions == ({name.removesuffix(".py") for name in MODULES} if can_be else set())


@pytest.mark.skipif(not is_compiled(), reason="nothing is compiled here")
@pytest.mark.parametrize("module", MODULES)
def test_no_compiled_class_has_a_dictionary_behind_its_layout(module: str) -> None:
    """Its objects would break the garbage collector with the first weak reference; see ``plain_class``."""
    imported = importlib.import_module(module.removesuffix(".py").replace("/", "."))
    for owner in vars(imported).values():
        if isinstance(owner, type) and owner.__module__ == imported.__name__ and "__mypyc_attrs__" in vars(owner):
            assert not owner.__weakrefoffset__ or owner.__bases__ == (Protocol,), owner


def handlers(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.ExceptHandler) and node.name is not None and node.type is not None:
            yield node.name, ast.unparse(node.type)


@pytest.mark.parametrize("module", MODULES)
def test_a_name_of_one_function_holds_exceptions_of_one_type(module: str) -> None:
    """mypyc gives it the type of the first handler, and raises TypeError in the others."""
    for function in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(function, ast.FunctionDef):
            types: dict[str, str] = {}
            for name, type_ in handlers(function):
                assert types.setdefault(name, type_) == type_, f"{module}: {function.name}: {name}"


@pytest.mark.parametrize("module", MODULES)
def test_no_union_of_several_types_has_none_as_its_default_on_a_class(module: str) -> None:
    """mypyc leaves such an attribute without a value; ``__init__`` has to set it."""
    for owner in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(owner, ast.ClassDef):
            for node in owner.body:
                if isinstance(node, ast.AnnAssign) and node.value is not None and ast.unparse(node.value) == "None":
                    assert ast.unparse(node.annotation).count("|") < 2, f"{module}: {ast.unparse(node)}"


@pytest.mark.parametrize("module", MODULES)
def test_no_bound_of_a_slice_is_the_result_of_a_call(module: str) -> None:
    """mypyc calls it twice where it has no slicing of its own for the type, as for a memoryview."""
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Slice):
            for bound in filter(None, (node.lower, node.upper, node.step)):
                called = {ast.unparse(part.func) for part in ast.walk(bound) if isinstance(part, ast.Call)}
                assert called <= {"len"}, f"{module}:{node.lineno}: {ast.unparse(node)}"
