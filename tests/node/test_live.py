"""Events: the whole for who comes, the difference for who stays, and nothing while nobody listens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pico.node import live
from pico.node.live import Live, View
from pico.observability.admin import AdminApp, Refused, Request
from pico.transport.clock import HubClock
from tests.node.harness import settled, until


class Reports:
    """A node that counts how often it was asked."""

    def __init__(self) -> None:
        self.made: list[View] = []
        self.fail = False

    def __call__(self, view: View) -> dict[str, Any]:
        if self.fail:
            raise RuntimeError("a part has no answer")
        self.made.append(view)
        return {"view": list(view), "made": len(self.made), "same": {"a": 1}}


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    monkeypatch.setattr(live, "INTERVAL_S", 0.02)
    return Reports()


@pytest.fixture
def alive(reports: Reports) -> Live:
    return Live(reports, HubClock())


def next_of(events: Iterator[bytes]) -> tuple[str, Any]:
    with gevent.Timeout(5.0):
        piece = next(events).decode()
    name, _, data = piece.removesuffix("\n\n").partition("\ndata: ")
    return name.removeprefix("event: "), json.loads(data) if data else None


def begun(alive: Live, view: View = View()) -> Iterator[bytes]:  # noqa: B008  # it is immutable
    events = alive.events(view)
    assert next(events) == b"retry: 2000\n\n"
    return events


def test_the_first_report_is_whole_and_the_next_ones_are_differences(alive: Live) -> None:
    events = begun(alive)
    assert next_of(events) == ("whole", {"view": ["", ""], "made": 1, "same": {"a": 1}})
    assert next_of(events) == ("change", {"made": 2})
    assert next_of(events) == ("change", {"made": 3})
    events.close()  # type: ignore[attr-defined]


def test_who_has_missed_a_report_gets_the_next_one_whole(alive: Live, reports: Reports) -> None:
    events = begun(alive)
    next_of(events)
    until(lambda: len(reports.made) >= 4)
    name, report = next_of(events)
    assert (name, report["same"], report["made"] >= 4) == ("whole", {"a": 1}, True)
    events.close()  # type: ignore[attr-defined]


def test_one_report_is_made_for_all_who_look_at_the_same(alive: Live, reports: Reports) -> None:
    listeners = [begun(alive) for _ in range(5)]
    other = begun(alive, View(filter="w"))
    firsts = [next_of(events) for events in listeners]
    assert firsts == [firsts[0]] * 5
    assert next_of(other)[1]["view"] == ["", "w"]
    assert reports.made == [View(), View(filter="w")]
    for events in (*listeners, other):
        events.close()  # type: ignore[attr-defined]


def test_nothing_runs_while_nobody_listens(alive: Live, reports: Reports) -> None:
    assert reports.made == []
    for _ in range(2):
        events = begun(alive)
        next_of(events)
        events.close()  # type: ignore[attr-defined]
        assert alive.views == 0
        made = len(reports.made)
        settled(lambda made=made: len(reports.made) == made)


def test_one_who_comes_later_does_not_wait_for_the_next_second(
    alive: Live, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", 60.0)
    first = begun(alive)
    next_of(first)
    second, other = begun(alive), begun(alive, View(endpoint="web"))
    assert next_of(second)[0] == "whole"
    assert next_of(other) == ("whole", {"view": ["web", ""], "made": 2, "same": {"a": 1}})
    for events in (first, second, other):
        events.close()  # type: ignore[attr-defined]


def test_a_line_shows_that_the_connection_lives_when_there_is_nothing_to_tell(
    alive: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", 60.0)
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.01)
    events = begun(alive)
    while (piece := next(events)).startswith(b":"):  # before the first report, too
        pass
    assert piece.startswith(b"event: whole")
    assert next(events) == b": alive\n\n"
    events.close()  # type: ignore[attr-defined]


def test_a_report_that_fails_ends_the_streams_and_the_next_listener_begins_anew(
    alive: Live, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    events = begun(alive)
    next_of(events)
    reports.fail = True
    with gevent.Timeout(5.0):
        assert [piece for piece in events if piece.startswith(b"event: whole")] == []
    assert "a part has no answer" in caplog.text
    reports.fail = False
    again = begun(alive)
    assert next_of(again)[0] == "whole"
    again.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("query", [{"endpoint": "x" * 64}, {"filter": "x" * 64}, {"other": "x"}])
def test_what_cannot_be_looked_for_is_refused(alive: Live, query: dict[str, str]) -> None:
    (route,) = alive.routes()
    with pytest.raises(Refused) as refused:
        route.handle(Request("GET", route.path, query=query))
    assert refused.value.status == 400


def test_the_number_of_streams_is_bounded(alive: Live) -> None:
    app = AdminApp(alive.routes())
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": live.EVENTS,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
    }
    said: list[str] = []
    bodies = [app(dict(environ), lambda status, _: said.append(status)) for _ in range(17)]
    assert said == ["200 OK"] * 16 + ["503 Service Unavailable"]
    for body in bodies[:16]:
        body.close()  # type: ignore[attr-defined]
    assert (app.streams, alive.views) == (0, 0)
