"""The table of seeded faults fits the tree, and a handful of them is found; ``make mutation`` seeds all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutation.runner import Stale, Tree, mutated
from tests.mutation.seeded import LEFT_OUT, SEEDED, Edit

SAMPLE = ("M1", "M8", "M20", "M21", "M29")


@pytest.mark.parametrize("seeded", SEEDED, ids=lambda seeded: seeded.name)
def test_a_fault_can_be_seeded_and_is_still_a_program(seeded) -> None:  # type: ignore[no-untyped-def]
    for text in mutated(seeded).values():
        ast.parse(text)


def test_each_fault_of_the_list_is_there_or_left_out_for_a_reason() -> None:
    names = [seeded.name for seeded in SEEDED]
    assert sorted([*names, *LEFT_OUT]) == sorted(f"M{number}" for number in range(1, 44))


def test_a_text_that_has_gone_is_noticed() -> None:
    with pytest.raises(Stale):
        mutated(SEEDED[0]._replace(edits=(Edit("state", "no such text", ""),)))


def test_a_sample_of_them_is_found(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for seeded in SEEDED:
        if seeded.name in SAMPLE:
            assert tree.first_objection(seeded) is not None, seeded.what
