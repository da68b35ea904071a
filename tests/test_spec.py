"""What is written in ``spec/`` is what the tests check: no rule without a test, no test of a rule that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.mirror import Mirror
from tests.traceability import Tree

TREE = Tree(Path(__file__).parent.parent)


def none_of(holes: Iterator[str]) -> None:
    found = list(holes)
    assert not found, "\n" + "\n".join(found)


def test_the_specification_has_rules() -> None:
    assert TREE.rules()


def test_rules_are_numbered_without_gaps() -> None:
    none_of(TREE.holes_in_numbering())


def test_every_rule_has_a_test_and_every_named_rule_exists() -> None:
    none_of(TREE.holes_in_coverage())


def test_the_code_names_only_rules_that_exist() -> None:
    none_of(TREE.holes_in_citations())


def test_every_stem_has_its_module_examples_properties_and_vectors() -> None:
    none_of(TREE.holes_in_stems())


def test_every_module_of_the_protocol_floor_has_its_own_tests() -> None:
    none_of(Mirror(TREE.root).holes())


def test_every_vector_file_is_read_by_a_test() -> None:
    none_of(TREE.holes_in_vectors())


def test_the_index_names_every_document() -> None:
    index = (TREE.root / "spec" / "README.md").read_text()
    none_of(f"spec/README.md does not name {path.name}" for path in TREE.documents() if f"({path.name})" not in index)
