"""Counts and rates by endpoint, the last requests and the last errors."""

from __future__ import annotations

from typing import Any

import pytest

from pico.observability import recent
from pico.observability.recent import EndpointCounter, Recent, is_error

BEGAN = 1_800_000_000.25


class Scene:
    """A node of which the test says what ends when."""

    def __init__(self) -> None:
        self.now = 100.0
        self.recent = Recent(lambda: self.now, lambda: BEGAN + self.now)

    def ends(self, endpoint: str = "web", status: int = 200, outcome: str = "ok", **changes: Any) -> None:
        said = {
            "request_id": "r-1",
            "remote": "192.0.2.1",
            "method": b"GET",
            "target": b"/",
            "total_s": 0.25,
            "upstream_s": 0.125,
            "bytes_in": 1,
            "bytes_out": 2,
            "upstream": "u-1",
            "peer": "",
            "reason": "",
            **changes,
        }
        self.recent.finished(self.now, endpoint=endpoint, status=status, outcome=outcome, **said)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    "outcome,status,wrong",
    [
        ("ok", 200, False),
        ("ok", 404, False),
        ("ok", 500, True),
        ("service_closed", 200, True),
        ("endpoint_not_found", 502, True),
        ("client_closed", 499, False),
        ("client_stalled", 200, False),
        ("body_incomplete", 400, False),
        ("body_timeout", 408, False),
        ("body_too_large", 413, False),
    ],
)
def test_what_is_an_error(outcome: str, status: int, wrong: bool) -> None:
    assert is_error(outcome, status) is wrong


def test_requests_and_errors_are_counted_by_endpoint(scene: Scene) -> None:
    scene.ends("a")
    scene.ends("a", 503)
    scene.ends("b", 200, "client_closed")
    counters = [scene.recent.of(name) for name in "abc"]
    assert [(one.requests, one.errors) if one else None for one in counters] == [(2, 1), (1, 0), None]


def test_what_a_visitor_makes_up_is_not_counted(scene: Scene) -> None:
    scene.ends("nobody", 502, "endpoint_not_found", upstream="")
    assert scene.recent.of("nobody") is None
    scene.ends("nobody", peer="node-2", upstream="")
    scene.ends("nobody", 502, "endpoint_not_found", upstream="")
    counter = scene.recent.of("nobody")
    assert counter is not None and (counter.requests, counter.errors) == (2, 1)


def test_counters_have_a_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "ENDPOINTS_MAX", 3)
    for name in "abcd":
        scene.ends(name)
    assert [scene.recent.of(name) is not None for name in "abcd"] == [False, True, True, True]


class TestRates:
    def test_it_is_that_of_the_last_window(self) -> None:
        counter = EndpointCounter()
        for second in range(20):
            for _ in range(5):
                counter.count(1000.0 + second, False)
        assert counter.rates(1020.0) == (5.0, 0.0)
        assert counter.rates(1019.9) == pytest.approx((5.0, 0.0), rel=0.02)

    def test_it_fades_when_nothing_comes(self) -> None:
        counter = EndpointCounter()
        for _ in range(100):
            counter.count(1000.0, True)
        assert counter.rates(1000.0) == (10.0, 10.0)
        assert counter.rates(1015.0) == (5.0, 5.0)
        assert counter.rates(1020.0) == (0.0, 0.0)
        assert counter.rates(1e6) == (0.0, 0.0)
        assert (counter.requests, counter.errors) == (100, 100)

    def test_nothing_is_lost_from_window_to_window(self) -> None:
        counter = EndpointCounter()
        for number in range(1000):
            counter.count(number * 0.7, number % 3 == 0)
        assert (counter.requests, counter.errors) == (1000, 334)


def test_the_newest_come_first_with_what_happened(scene: Scene) -> None:
    scene.ends(request_id="r-1", target=b"/a?token=secret")
    scene.now += 1.5
    scene.ends(request_id="r-2", status=504, outcome="response_timeout", reason="too late")
    newest, oldest = scene.recent.requests()
    assert (newest["request"], newest["time"], newest["reason"]) == ("r-2", "2027-01-15T08:01:41.750Z", "too late")
    assert (oldest["path"], oldest["method"], oldest["total_s"]) == ("/a", "GET", 0.25)
    assert "secret" not in str(oldest)


def test_they_can_be_those_of_one_endpoint_and_few(scene: Scene) -> None:
    for number in range(10):
        scene.ends("even" if number % 2 == 0 else "odd", request_id=str(number))
    assert [row["request"] for row in scene.recent.requests("odd")] == ["9", "7", "5", "3", "1"]
    assert [row["request"] for row in scene.recent.requests("odd", 2)] == ["9", "7"]
    assert list(scene.recent.requests(limit=0)) == []


def test_errors_outlive_what_goes_well(scene: Scene) -> None:
    scene.ends(request_id="bad", status=502, outcome="service_closed")
    for _ in range(recent.REQUESTS_MAX):
        scene.ends()
    assert len(list(scene.recent.requests())) == recent.REQUESTS_MAX
    assert [row["request"] for row in scene.recent.errors()] == ["bad"]


def test_no_more_is_kept_than_that_however_much_is_asked_for(scene: Scene) -> None:
    for _ in range(recent.REQUESTS_MAX + 1):
        scene.ends(status=502, outcome="service_closed")
    assert len(list(scene.recent.requests(limit=1_000_000))) == recent.REQUESTS_MAX
    assert len(list(scene.recent.errors(limit=1_000_000))) == recent.ERRORS_MAX


def test_requests_may_end_and_counters_go_while_somebody_looks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "ENDPOINTS_MAX", 2)
    for name in "ab":
        scene.ends(name, 502, "service_closed", request_id=name)
    requests, errors, counted = scene.recent.requests(), scene.recent.errors(), scene.recent.counted()
    seen = [next(requests)["request"], next(errors)["request"], next(counted)[0]]
    scene.ends("c", 502, "service_closed", request_id="c")
    scene.ends("d", 502, "service_closed", request_id="d")
    assert seen == ["b", "b", "a"]
    assert [row["request"] for row in (*requests, *errors)] == ["a", "a"]
    assert list(counted) == [], "that of b is no more"


def test_values_that_others_chose_are_cut(scene: Scene) -> None:
    scene.ends(target=b"/" + b"x" * 10_000 + b"\xff", method=b"M" * 10_000, reason="y" * 10_000, status=500)
    row = next(scene.recent.errors())
    assert max(len(row[name]) for name in ("path", "method", "reason")) == recent.TEXT_MAX
    assert len(scene.recent._errors[-1][recent._Entry._fields.index("target")]) == recent.TEXT_MAX, "nor kept"
