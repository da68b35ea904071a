"""Messages that have not ended: what is counted, and who is ended for it."""

from __future__ import annotations

import pytest

from pico.config import NodeConfig, RpcLimits, WebSocketLimits
from pico.protocol.tunnel import Unfinished
from tests.rules import covers


def account(bytes_max: int = 100) -> Unfinished:
    return Unfinished(bytes_max, free_bytes=10)


@covers("TUN-42")
def test_what_every_tunnel_may_hold_is_not_counted_however_many_there_are() -> None:
    unfinished = account()
    assert not any(unfinished.hold(f"u{number}", "a", arriving=10) for number in range(1_000))
    assert unfinished.held_bytes == 0


@covers("TUN-42")
def test_what_is_beyond_that_is_counted_up_to_the_limit() -> None:
    unfinished = account()
    assert unfinished.hold("u1", "a", arriving=60) == []
    assert unfinished.hold("u2", "b", arriving=60) == []
    assert unfinished.held_bytes == 100
    assert unfinished.hold("u2", "b", arriving=61) == ["u2"]
    assert unfinished.held_bytes == 50


@covers("TUN-43")
def test_the_address_that_holds_most_loses_the_tunnel_that_holds_some_for_the_longest_time() -> None:
    unfinished = account()
    for tunnel, address, size in (("u1", "b", 40), ("u2", "a", 15), ("u3", "a", 60)):
        assert unfinished.hold(tunnel, address, arriving=size) == []
    # "a" has 5 and 50, "b" 30; with 20 more of "b" that is still less, though "b" is who wants more and began first.
    assert unfinished.hold("u1", "b", arriving=60) == ["u2"]
    assert unfinished.hold("u1", "b", arriving=61) == ["u1"]
    assert unfinished.hold("u4", "c", arriving=60) == []


@covers("TUN-43")
def test_one_after_the_other_is_ended_until_the_rest_is_within_the_limit() -> None:
    unfinished = account()
    for number in range(10):
        assert unfinished.hold(f"u{number}", "a", arriving=20) == []
    assert unfinished.hold("big", "a", arriving=45) == ["u0", "u1", "u2", "u3"]
    assert unfinished.held_bytes == 95


@covers("TUN-43")
@pytest.mark.parametrize("less", [0, 10, 11, 49])
def test_who_has_less_than_before_has_begun_another_message_and_is_the_youngest(less: int) -> None:
    unfinished = account()
    unfinished.hold("u1", "a", arriving=50)
    unfinished.hold("u2", "a", arriving=20)
    unfinished.hold("u1", "a", arriving=less)
    unfinished.hold("u1", "a", arriving=50)
    assert unfinished.hold("u3", "a", arriving=61) == ["u2"]


@covers("TUN-43")
def test_more_of_the_same_message_makes_nobody_younger() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", arriving=20)
    unfinished.hold("u2", "a", arriving=60)
    unfinished.hold("u1", "a", arriving=30)
    unfinished.hold("u1", "a", arriving=30)
    assert unfinished.hold("u3", "a", arriving=50) == ["u1"]


@covers("TUN-43")
def test_who_takes_a_little_or_says_a_little_besides_is_no_younger() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", leaving=50)
    unfinished.hold("u2", "a", leaving=30)
    for arriving, leaving in ((0, 49), (5, 49), (0, 49), (1, 48)):
        assert unfinished.hold("u1", "a", arriving=arriving, leaving=leaving) == []
    assert unfinished.hold("u3", "a", leaving=60) == ["u1"]


@covers("TUN-43")
def test_who_takes_something_is_no_younger_for_what_does_not_end_the_other_way() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", arriving=30)
    unfinished.hold("u2", "a", arriving=30)
    unfinished.hold("u1", "a", arriving=30, leaving=20)
    unfinished.hold("u1", "a", arriving=30)
    assert unfinished.hold("u3", "a", arriving=80) == ["u1"]


@covers("TUN-43")
def test_who_has_taken_all_of_it_begins_anew_whatever_arrives() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", arriving=20, leaving=30)
    unfinished.hold("u2", "a", leaving=20)
    unfinished.hold("u1", "a", arriving=15, leaving=20)
    unfinished.hold("u1", "a", arriving=20)
    unfinished.hold("u1", "a", arriving=20, leaving=30)
    assert unfinished.hold("u3", "a", leaving=70) == ["u2"]


@covers("TUN-43")
def test_one_way_is_counted_from_when_something_was_there() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", leaving=20)
    unfinished.hold("u2", "a", arriving=20)
    unfinished.hold("u1", "a", arriving=30, leaving=20)
    unfinished.hold("u1", "a", arriving=30)  # nothing leaves any more
    assert unfinished.hold("u3", "a", arriving=90) == ["u2"]
    unfinished.release("u3", "a")
    unfinished.hold("u4", "a", leaving=30)
    assert unfinished.hold("u5", "a", arriving=80) == ["u1"]


@covers("TUN-42")
def test_who_has_ended_holds_nothing() -> None:
    unfinished = account()
    unfinished.release("u1", "a")
    unfinished.hold("u1", "a", arriving=50)
    unfinished.release("u1", "a")
    unfinished.release("u1", "a")
    assert unfinished.held_bytes == 0
    assert unfinished.hold("u2", "a", arriving=110) == []


def test_a_lower_limit_counts_from_the_next_change_on() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", arriving=50)
    unfinished.bytes_max = 30
    assert unfinished.hold("u2", "b", arriving=11) == ["u1"]


@covers("TUN-42")
def test_the_default_lets_many_whole_messages_wait_for_their_end() -> None:
    config = NodeConfig()
    one = RpcLimits().base_body_bytes_max + 2 * config.http_limits.head_bytes_max
    assert config.unfinished_bytes_max // (one - WebSocketLimits().message_bytes_max) == 65
