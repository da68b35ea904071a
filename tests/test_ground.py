"""The helpers that the other tests stand on, tested themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.mirror import Mirror
from tests.rules import covers
from tests.traceability import Tree

ROOT = Path(__file__).parent.parent

SOUND = {
    "spec/README.md": "**ABC-9** is only an example here\n",
    "spec/abc.md": "# Abc\n\n- **ABC-1** One MUST.\n- **ABC-2** Two MUST.\n\n```\n**ABC-7** code\n```\n",
    "spec/vectors/abc.json": '[{"rules": ["ABC-1"], "bytes": "00"}]',
    "pico/protocol/abc.py": "x = 1  # ABC-1: UTF-8 and RFC-9110 are no rules\n",
    "tests/protocol/test_abc.py": '@covers("ABC-1", "ABC-2")\ndef test_one():\n    open("abc.json")\n',
    "tests/property/test_abc.py": '@rules.covers("ABC-1")\nclass Machine:\n    @covers("ABC-2")\n    def a(self): 0\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name, text in SOUND.items():
        write(tmp_path, name, text)
    return Tree(tmp_path)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def all_holes(tree: Tree) -> list[str]:
    checks: list[Callable[[], Iterator[str]]] = [
        tree.holes_in_numbering,
        tree.holes_in_coverage,
        tree.holes_in_citations,
        tree.holes_in_stems,
        tree.holes_in_vectors,
    ]
    return [hole for check in checks for hole in check()]


def test_a_sound_tree_has_no_holes(tree: Tree) -> None:
    assert all_holes(tree) == []
    assert [rule.name for rule in tree.rules()] == ["ABC-1", "ABC-2"]


@pytest.mark.parametrize(
    "name,text,complaint",
    [
        ("spec/abc.md", "- **ABC-1** One.\n- **ABC-2** Two.\n- **ABC-3** Three.\n", "abc.md:3 (ABC-3): no test covers"),
        ("spec/abc.md", "- **ABC-1** One.\n- **ABC-2** Two.\n**ABC-2** Again.\n", "ABC-2 is there twice"),
        ("spec/abc.md", "- **ABC-2** Two.\n", "abc.md: ABC-1 is missing"),
        ("spec/abc.md", "- **ABC-2** Two.\n- **ABC-1** One.\n", "do not stand in the order"),
        ("spec/abc.md", "- **ABC-1** One.\n- **ABD-1** Two.\n- **ABC-2**.\n", "share one prefix"),
        ("spec/abc.md", "No rule.\n", "no rule"),
        ("spec/new.md", "- **ABC-1** One.\n", "new.md: the prefix"),
        ("spec/new.md", "- **NEW-1** One.\n", "spec/new.md: no module (pico/protocol/new.py or"),
        ("spec/new.md", "- **NEW-1** One.\n", "spec/new.md: no examples"),
        ("spec/new.md", "- **NEW-1** One.\n", "spec/new.md: no properties"),
        ("spec/new.md", "- **NEW-1** One.\n", "spec/new.md: no vectors"),
        ("tests/x/test_x.py", "@covers('ABC-3')\ndef test_x(): ...\n", "test_x.py:1 (ABC-3): there is no such rule"),
        ("tests/x/test_x.py", "@covers(*RULES)\ndef test_x(): ...\n", "plain strings"),
        ("tests/x/test_x.py", "@covers()\ndef test_x(): ...\n", "plain strings"),
        ("tests/x/test_x.py", "@covers('ABC-1')\ndef helper(): ...\n", "no test runner collects it"),
        ("pico/actors/x.py", "# obeys ABC-12\n", "x.py:1 (ABC-12): there is no such rule"),
        ("pico/actors/x.py", '"""Theory.\n\nABC-12 says so.\n"""\n', "x.py:3 (ABC-12)"),
        ("spec/vectors/abc.json", "{", "abc.json: Expecting"),
        ("spec/vectors/abc.json", '{"a": {"rule": "ABC-3"}}', "abc.json (ABC-3): there is no such rule"),
        ("spec/vectors/abc-more.json", "[]", "abc-more.json: no test reads it"),
        ("spec/vectors/other.json", "[]", "other.json: vectors of no document"),
    ],
)
def test_a_hole_is_named(tree: Tree, name: str, text: str, complaint: str) -> None:
    write(tree.root, name, text)
    assert any(complaint in hole for hole in all_holes(tree)), all_holes(tree)


def test_a_rule_whose_only_test_is_not_collected_is_not_covered(tree: Tree) -> None:
    write(tree.root, "tests/property/test_abc.py", "")
    write(tree.root, "tests/protocol/test_abc.py", '@covers("ABC-1", "ABC-2")\ndef helper(): "abc.json"\n')
    assert sum("no test covers" in hole for hole in all_holes(tree)) == 2


def test_covers_records_and_returns_the_same_function() -> None:
    def test() -> None: ...

    assert covers("ABC-2")(covers("ABC-1")(test)) is test
    assert test.covered_rules == ("ABC-2", "ABC-1")  # type: ignore[attr-defined]


@pytest.mark.parametrize("names", [(), ("abc-1",), ("ABC-01",), ("ABC",), ("ABC-1 ",)])
def test_covers_refuses_what_is_no_rule(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        covers(*names)


# The mirror: from a module of the protocol floor to the tests that are its own.


def test_a_module_has_the_tests_of_its_stem(tmp_path: Path) -> None:
    for name in (
        "pico/protocol/__init__.py",
        "pico/protocol/abc.py",
        "pico/protocol/pack/__init__.py",
        "pico/protocol/pack/inner.py",
        "tests/protocol/test_abc.py",
        "tests/protocol/test_abcd.py",
        "tests/protocol/test_pack_inner.py",
        "tests/property/test_pack.py",
    ):
        write(tmp_path, name, "")
    mirror = Mirror(tmp_path)
    tests = {module.stem: [path.name for path in module.tests] for module in mirror.modules()}
    assert tests == {"abc": ["test_abc.py"], "pack": ["test_pack_inner.py", "test_pack.py"]}
    assert list(mirror.holes()) == ["tests/protocol/test_abcd.py: tests of no module in pico/protocol"]


def test_a_module_without_tests_is_a_hole(tmp_path: Path) -> None:
    write(tmp_path, "pico/protocol/abc.py", "")
    assert list(Mirror(tmp_path).holes()) == ["pico/protocol/abc.py: no test module of its own"]


# Profiles of Hypothesis.


@pytest.mark.parametrize("name,examples", [("dev", 25), ("ci", 200), ("deep", 5000)])
def test_profiles_have_no_deadline(name: str, examples: int) -> None:
    profile = settings.get_profile(name)
    assert (profile.max_examples, profile.deadline) == (examples, None)


@pytest.mark.parametrize(
    "environment,examples",
    [({}, 25), ({"CI": "true"}, 200), ({"CI": "true", "HYPOTHESIS_PROFILE": "deep"}, 5000), ({"CI": "false"}, 25)],
)
def test_the_environment_chooses_the_profile(environment: dict[str, str], examples: int) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("CI", "HYPOTHESIS_PROFILE")}
    code = "import tests.conftest, hypothesis; print(hypothesis.settings().max_examples)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.split() == [str(examples)], ran.stderr
