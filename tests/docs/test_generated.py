"""What the documentation takes from the code is what the code says now."""

from __future__ import annotations

import re

import pytest

from docs import generate
from docs.drawing import Arrow, states
from pico.protocol.cluster import NodeStatus
from pico.protocol.http.failures import Failure
from pico.protocol.rpc.states import HALF
from pico.protocol.tunnel.states import LINK


def names_in(picture: str) -> list[str]:
    return re.findall(r'class="name"[^>]*>([^<]+)<', picture)


def labels_in(picture: str) -> list[str]:
    return re.findall(r'class="label"[^>]*>([^<]+)<', picture)


def test_nothing_is_stale() -> None:
    assert not generate.stale(), "make reference makes it anew"


def test_a_part_of_a_page_that_is_stale_is_noticed() -> None:
    page = "before\n<!-- generated: failures -->\nold\n<!-- end of what is generated -->\nbehind\n"
    made = generate.parts_of(page)
    assert made.startswith("before\n") and made.endswith("\nbehind\n")
    assert "old" not in made and "endpoint_not_found" in made
    assert generate.parts_of(made) == made


def test_every_state_and_every_input_of_a_link_is_drawn() -> None:
    picture = generate.link()
    assert set(names_in(picture)) == {state.value for state in LINK}
    assert sorted(labels_in(picture)) == sorted(cause.value for row in LINK.values() for cause in row)


def test_every_state_and_every_input_of_a_half_is_drawn() -> None:
    picture = generate.half()
    assert set(names_in(picture)) == {state.name for state in HALF}
    assert {cause.name for row in HALF.values() for cause in row} <= set(labels_in(picture))


def test_every_word_under_which_a_node_is_shown_is_drawn() -> None:
    assert set(names_in(generate.node())) == {status.value for status in NodeStatus}


def test_every_failure_has_one_part_to_look_at_first() -> None:
    assert sorted(one.name for several in generate.WHO.values() for one in several) == sorted(Failure.__members__)


def test_a_state_without_a_place_is_refused() -> None:
    with pytest.raises(KeyError):
        states({"a": (0, 0)}, [Arrow("a", "b", "x")], start="a", ends=[], title="")


@pytest.mark.parametrize("name", generate.PICTURES)
def test_a_picture_is_shown_somewhere(name: str) -> None:
    pages = [page.read_text() for page in generate.DOCS.glob("*.md")]
    assert any(f"(pictures/{name}.svg)" in page for page in pages)


@pytest.mark.parametrize("name", generate.PARTS)
def test_a_part_stands_somewhere(name: str) -> None:
    pages = [page.read_text() for page in generate.DOCS.glob("*.md")]
    assert any(f"<!-- generated: {name} -->" in page for page in pages)
