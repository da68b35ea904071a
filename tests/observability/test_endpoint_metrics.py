"""Metrics by endpoint: off unless asked for, bounded, and gone with their endpoints."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pico.observability.endpoint_metrics import OTHER, EndpointMetrics


@dataclass
class Count:
    requests: int = 0
    errors: int = 0


class World:
    """Endpoints, where they are and what was counted of them."""

    def __init__(self, series_max: int) -> None:
        self.here: dict[str, tuple[int, int]] = {}
        self.elsewhere: set[str] = set()
        self.counts: dict[str, Count] = {}
        self.metrics = EndpointMetrics(series_max)
        self.metrics.loads = lambda: [(name, *load) for name, load in self.here.items()]
        self.metrics.counted = lambda: list(self.counts.items())
        self.metrics.exists = lambda name: name in self.here or name in self.elsewhere

    def told(self) -> dict[tuple[str, str], float]:
        text = b"".join(self.metrics.slices()).decode()
        return {
            (sample.name, sample.labels["endpoint"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def test_nothing_is_told_unless_it_is_asked_for() -> None:
    world = World(0)
    world.here["web"] = (1, 1)
    assert world.told() == {}


def test_what_is_told_of_an_endpoint() -> None:
    world = World(10)
    world.here["web"] = (2, 5)
    world.elsewhere.add("far")
    world.counts = {"web": Count(7, 1), "far": Count(3)}
    told = world.told()
    assert told["pico_endpoint_requests_total", "web"] == 7
    assert told["pico_endpoint_errors_total", "web"] == 1
    assert told["pico_endpoint_upstreams", "web"] == 2
    assert told["pico_endpoint_streams", "web"] == 5
    assert told["pico_endpoint_requests_total", "far"] == 3
    assert ("pico_endpoint_upstreams", "far") not in told


def test_a_series_ends_with_its_endpoint_and_makes_room() -> None:
    world = World(1)
    world.here = {"old": (1, 0), "new": (1, 0)}
    world.counts = {"old": Count(5)}
    assert ("pico_endpoint_upstreams", "old") in world.told()
    del world.here["old"]
    assert {endpoint for _, endpoint in world.told()} == {OTHER}, "who was part of the rest stays there"
    world.here["newer"] = (1, 0)
    assert ("pico_endpoint_upstreams", "newer") in world.told()


def test_the_rest_is_told_together() -> None:
    world = World(2)
    world.here = {f"e{number}": (1, number) for number in range(5)}
    world.counts = {f"e{number}": Count(10, 1) for number in range(5)}
    told = world.told()
    assert told["pico_endpoint_requests_total", OTHER] == 30
    assert told["pico_endpoint_errors_total", OTHER] == 3
    assert told["pico_endpoint_upstreams", OTHER] == 3
    assert told["pico_endpoint_streams", OTHER] == 2 + 3 + 4
    assert len({endpoint for _, endpoint in told}) == 3


names = st.sampled_from("abcdef")
steps = st.lists(st.tuples(st.sampled_from(("come", "go", "request", "scrape")), names), max_size=60)


@given(steps, st.integers(1, 4))
def test_the_number_of_series_is_bounded_and_what_is_counted_together_only_grows(
    story: list[tuple[str, str]], series_max: int
) -> None:
    world, before = World(series_max), 0.0
    for what, name in story:
        if what == "come":
            world.here[name] = (1, 0)
        elif what == "go":
            world.here.pop(name, None)
        elif what == "request" and name in world.here:
            world.counts.setdefault(name, Count()).requests += 1
        told = world.told()
        own = {endpoint for _, endpoint in told} - {OTHER}
        assert len(own) <= series_max
        assert own <= world.here.keys()
        assert told["pico_endpoint_requests_total", OTHER] >= before
        before = told["pico_endpoint_requests_total", OTHER]
