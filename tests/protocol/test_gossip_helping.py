"""Pings for others: each answered once, with an ack or in time with a nack."""

from __future__ import annotations

from random import Random

import pytest

from pico.config import GossipTimers
from pico.protocol.gossip.helping import HELPED_MAX, Answer, Helping
from pico.protocol.gossip.values import Ack, Nack, Ping, PingRequest
from tests.rules import covers

ORIGIN, TARGET = ("10.0.0.1", 8003), ("10.0.0.2", 8003)
REQUEST = PingRequest(7, "x", TARGET)


@pytest.fixture
def helping() -> Helping:
    return Helping(GossipTimers(probe_timeout_s=0.2), Random(1))


@covers("GOSSIP-60")
class TestHelping:
    def test_an_answer_is_passed_on_with_the_number_that_was_asked_with(self, helping: Helping) -> None:
        ping = helping.begin(REQUEST, ORIGIN, now=0.0)
        assert ping is not None and ping == Ping(ping.sequence, "x")
        assert helping.answered(Ack(ping.sequence, "x", 9)) == Answer(ORIGIN, Ack(7, "x", 9))
        assert helping.answered(Ack(ping.sequence, "x", 9)) is None, "once"
        assert helping.next_timer() is None and helping.handle_timer(now=9.0) == []

    def test_what_another_node_answers_is_not_passed_on(self, helping: Helping) -> None:
        ping = helping.begin(REQUEST, ORIGIN, now=0.0)
        assert ping is not None
        assert helping.answered(Ack(ping.sequence, "y", 9)) is None
        assert helping.answered(Ack(ping.sequence + 1, "x", 9)) is None
        assert helping.answered(Ack(ping.sequence, "x", 9)) is not None

    def test_without_an_answer_in_time_that_is_said(self, helping: Helping) -> None:
        helping.begin(REQUEST, ORIGIN, now=1.0)
        due = helping.next_timer()
        assert due == 1.2
        assert helping.handle_timer(now=1.1) == []
        assert helping.handle_timer(now=due) == [Answer(ORIGIN, Nack(7))]
        assert helping.next_timer() is None

    def test_there_are_not_more_than_the_limit(self, helping: Helping) -> None:
        assert all(helping.begin(REQUEST, ORIGIN, now=0.0) for _ in range(HELPED_MAX))
        assert helping.begin(REQUEST, ORIGIN, now=0.0) is None
        helping.handle_timer(now=1.0)
        assert helping.begin(REQUEST, ORIGIN, now=1.0) is not None
