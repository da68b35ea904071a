"""The soak, short: the trouble works, and the two claims hold for a few seconds. ``make soak`` takes its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import SoakFailed, body_of, compare, soak

SEED = 20261123  # the same trouble on every run, as far as time allows


@pytest.mark.timeout(180)
def test_nothing_is_wrong_and_nothing_is_left_after_a_few_seconds_of_trouble(tmp_path: Path) -> None:
    said: list[str] = []
    outcomes = soak(6, SEED, tmp_path, said.append)
    assert len(said) == 2
    assert outcomes["calm get 200"] > 0
    assert outcomes["calm leave left"] > 0


def test_growth_is_noticed() -> None:
    counts = {"greenlets": 10, "actors": 5, "descriptors": 20, "sockets": 8, "rss_kib": 50_000}
    compare([counts, counts], [counts, counts])
    for name, grown in [("actors", 6), ("greenlets", 20), ("sockets", 11), ("descriptors", 30), ("rss_kib", 90_000)]:
        with pytest.raises(SoakFailed, match=f"agent: {name} grew from {counts[name]} to {grown}"):
            compare([counts, counts], [counts, counts | {name: grown}])


def test_bodies_of_two_tokens_differ_and_have_their_length() -> None:
    assert [len(body_of("a", size)) for size in (0, 1, 31, 32, 33, 1000)] == [0, 1, 31, 32, 33, 1000]
    assert body_of("a", 100) != body_of("b", 100)
