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
    assert not any(unfinished.hold(f"u{number}", "a", 10) for number in range(1_000))
    assert unfinished.held_bytes == 0


@covers("TUN-42")
def test_what_is_beyond_that_is_counted_up_to_the_limit() -> None:
    unfinished = account()
    assert unfinished.hold("u1", "a", 60) == []
    assert unfinished.hold("u2", "b", 60) == []
    assert unfinished.held_bytes == 100
    assert unfinished.hold("u2", "b", 61) == ["u2"]
    assert unfinished.held_bytes == 50


@covers("TUN-43")
def test_the_address_that_holds_most_loses_the_tunnel_that_holds_some_for_the_longest_time() -> None:
    unfinished = account()
    for tunnel, address, size in (("u1", "b", 40), ("u2", "a", 15), ("u3", "a", 60)):
        assert unfinished.hold(tunnel, address, size) == []
    # "a" has 5 and 50, "b" 30; with 20 more of "b" that is still less, though "b" is who wants more and began first.
    assert unfinished.hold("u1", "b", 60) == ["u2"]
    assert unfinished.hold("u1", "b", 61) == ["u1"]
    assert unfinished.hold("u4", "c", 60) == []


@covers("TUN-43")
def test_one_after_the_other_is_ended_until_the_rest_is_within_the_limit() -> None:
    unfinished = account()
    for number in range(10):
        assert unfinished.hold(f"u{number}", "a", 20) == []
    assert unfinished.hold("big", "a", 45) == ["u0", "u1", "u2", "u3"]
    assert unfinished.held_bytes == 95


@covers("TUN-43")
@pytest.mark.parametrize("less", [0, 10, 11, 49])
def test_who_has_less_than_before_has_begun_another_message_and_is_the_youngest(less: int) -> None:
    unfinished = account()
    unfinished.hold("u1", "a", 50)
    unfinished.hold("u2", "a", 20)
    unfinished.hold("u1", "a", less)
    unfinished.hold("u1", "a", 50)
    assert unfinished.hold("u3", "a", 61) == ["u2"]


@covers("TUN-43")
def test_more_of_the_same_message_makes_nobody_younger() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", 20)
    unfinished.hold("u2", "a", 60)
    unfinished.hold("u1", "a", 30)
    unfinished.hold("u1", "a", 30)
    assert unfinished.hold("u3", "a", 50) == ["u1"]


@covers("TUN-42")
def test_who_has_ended_holds_nothing() -> None:
    unfinished = account()
    unfinished.release("u1", "a")
    unfinished.hold("u1", "a", 50)
    unfinished.release("u1", "a")
    unfinished.release("u1", "a")
    assert unfinished.held_bytes == 0
    assert unfinished.hold("u2", "a", 110) == []


def test_a_lower_limit_counts_from_the_next_change_on() -> None:
    unfinished = account()
    unfinished.hold("u1", "a", 50)
    unfinished.bytes_max = 30
    assert unfinished.hold("u2", "b", 11) == ["u1"]


@covers("TUN-42")
def test_the_default_lets_many_whole_messages_wait_for_their_end() -> None:
    config = NodeConfig()
    one = RpcLimits().base_body_bytes_max + 2 * config.http_limits.head_bytes_max
    assert config.unfinished_bytes_max // (one - WebSocketLimits().message_bytes_max) == 65
