"""The link: scripts of what happens and what it asks for."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pico.actors.spares import SPARED_S
from pico.config import LinkTimers, NodeConfig, WebSocketLimits
from pico.node.node import HANDSHAKES_MAX
from pico.protocol.tunnel import LINK, Announce, Change, GiveUp, Link, LinkInput, LinkState, Refusal, Serve, Spread
from pico.protocol.tunnel.backoff import Backoff
from tests.protocol.tunnel_playbook import Longest, Playbook
from tests.rules import covers

SPEC = Path(__file__).parents[2] / "spec"
VECTORS: dict[str, Any] = json.loads((SPEC / "vectors" / "tunnel.json").read_text())


def opened(**timers: float) -> Playbook:
    """A link with tunnel 1 open."""
    book = Playbook(**timers)
    book.run("timer", "accepted 1")
    return book


@pytest.mark.parametrize("vector", VECTORS["links"], ids=lambda vector: vector["name"])
def test_a_link_of_the_vectors(vector: dict[str, Any]) -> None:
    book = Playbook(vector["servers"])
    for text, expected in vector["steps"]:
        assert book.step(text) == expected, text


def test_the_parameters_in_the_specification_are_those_of_the_configuration() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| .* \| ([0-9.,]+) \| .* \|$", (SPEC / "tunnel.md").read_text(), re.MULTILINE)
    written = {name: float(value.replace(",", "")) for name, value in rows}
    known = {
        **dataclasses.asdict(LinkTimers()),
        **dataclasses.asdict(WebSocketLimits()),
        "handshake_s": NodeConfig().handshake_s,
        "handshakes_max": HANDSHAKES_MAX,
        "spared_s": SPARED_S,
        "unfinished_bytes_max": NodeConfig().unfinished_bytes_max,
    }
    assert written == known


# States.


@covers("TUN-20")
def test_the_table_in_the_specification_is_the_table_in_the_code() -> None:
    text = (SPEC / "tunnel.md").read_text()
    lines = re.findall(r"^\| (state|[A-Z_]{4,}) \|(.*)\|$", text, re.MULTILINE)
    rows = {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}
    inputs = rows.pop("state")
    written = {
        LinkState[name]: {LinkInput[given]: LinkState[to] for given, to in zip(inputs, cells, strict=True) if to}
        for name, cells in rows.items()
        if name in LinkState.__members__
    }
    assert written == LINK


REACHING = {
    LinkState.WAITING: (),
    LinkState.DIALLING: ("timer",),
    LinkState.OPEN: ("timer", "accepted 1"),
    LinkState.DRAINING: ("timer", "accepted 1", "stop"),
    LinkState.CLOSED: ("stop",),
    LinkState.GIVEN_UP: ("timer", "refused 1 404"),
}
GIVING = {
    LinkInput.ACCEPTED: "accepted 1",
    LinkInput.FAILED: "failed 1 no",
    LinkInput.HOPELESS: "refused 1 404",
    LinkInput.GOAWAY: "goaway 1",
    LinkInput.ENDED: "ended 1",
    LinkInput.STOP: "stop",
}


@covers("TUN-20")
@pytest.mark.parametrize("state", list(LinkState))
@pytest.mark.parametrize("given", list(GIVING))
def test_every_input_in_every_state_does_what_the_table_says(state: LinkState, given: LinkInput) -> None:
    book = Playbook()
    book.run(*REACHING[state], "after 0" if state is not LinkState.WAITING else "failed 7 other")
    assert book.link.state is state
    book.step(GIVING[given])
    expected = LINK[state].get(given, state)
    gone = state is LinkState.WAITING and given is LinkInput.STOP  # no tunnel: emptied at the same moment
    gone = gone or (state is LinkState.DIALLING and given is LinkInput.STOP)
    gone = gone or (state is LinkState.DRAINING and given in (LinkInput.ENDED, LinkInput.STOP))
    assert book.link.state is (LinkState.CLOSED if gone else expected)


# Dialling.


def test_a_new_link_dials_at_once() -> None:
    book = Playbook()
    assert book.link.next_timer() == book.now
    assert book.step("timer") == ["dial 1 server 0"]
    assert book.link.snapshot().state is LinkState.DIALLING


@covers("TUN-21")
def test_a_dial_without_an_answer_fails_and_is_dropped() -> None:
    book = Playbook(dial_s=10)
    book.step("timer")
    assert book.link.next_timer() == book.now + 10
    assert book.step("after 9.9") == []
    assert book.step("after 0.1") == ["abort 1", "log retrying server 0: no answer in 10 s"]
    assert book.link.state is LinkState.WAITING


@covers("TUN-21")
def test_a_tunnel_that_comes_too_late_is_dropped() -> None:
    book = Playbook()
    book.run("timer", "after 10", "timer")
    assert book.asked("accepted 1") == ["abort 1"]
    assert book.link.state is LinkState.DIALLING
    assert book.step("refused 1 404") == []
    assert book.step("failed 1 late") == []
    assert book.step("accepted 2") == ["serve 2", "log registered server 0"]
    assert book.link.next_timer() is None


@covers("TUN-19")
def test_the_next_server_is_tried_after_any_failure() -> None:
    book = Playbook(servers=3)
    assert book.run("timer") == ["dial 1 server 0"]
    assert book.run("failed 1 x", "timer") == ["dial 2 server 1"]
    assert book.run("refused 2 500", "timer") == ["dial 3 server 2"]
    assert book.run("accepted 3", "ended 3 lost", "timer") == ["dial 4 server 0"]
    assert book.run("accepted 4", "goaway 4", "timer") == ["dial 5 server 1"]


@covers("TUN-19", "TUN-25")
def test_a_held_server_is_passed_over_while_another_is_not_held() -> None:
    book = Playbook(servers=2)
    assert book.run("timer", "refused 1 503 after=30", "timer") == ["dial 2 server 1"]
    assert book.run("failed 2 x", "timer") == ["dial 3 server 1"]
    assert book.run("refused 3 503 after=40", "timer") == ["dial 4 server 0"]
    assert book.now == pytest.approx(130.0, abs=1.0)


@covers("TUN-19", "TUN-25")
def test_when_all_servers_are_held_the_first_to_be_free_is_dialled() -> None:
    book = Playbook(servers=3)
    book.run("timer", "refused 1 503 after=50", "timer", "refused 2 503 after=40", "timer")
    assert book.run("refused 3 503 after=20", "timer") == ["dial 4 server 2"]
    assert book.now == pytest.approx(120.0, abs=1.0)


@covers("TUN-25")
def test_retry_after_is_obeyed_up_to_a_limit() -> None:
    book = Playbook(retry_after_max_s=60, backoff_first_s=0.5)
    book.run("timer", "refused 1 503 after=999999999")
    assert book.link.next_timer() == pytest.approx(160.5)


@covers("TUN-25")
def test_a_server_that_accepts_is_held_no_longer() -> None:
    book = Playbook()
    book.run("timer", "refused 1 503 after=9", "timer", "accepted 2", "ended 2 lost")
    assert book.link.next_timer() == pytest.approx(book.now + 0.2), "the second failure, and no patience on top"


@covers("TUN-22")
@pytest.mark.parametrize(
    "failures, servers, ceiling",
    [(1, 1, 0.1), (2, 1, 0.2), (3, 1, 0.4), (4, 1, 0.8), (9, 1, 15.0), (10_000, 1, 15.0), (3, 3, 0.1), (4, 3, 0.2)],
)
def test_the_ceiling_of_the_waits(failures: int, servers: int, ceiling: float) -> None:
    backoff = Backoff(LinkTimers(), servers, Longest())
    waits = [backoff.failed() for _ in range(failures)]
    assert waits[-1] == backoff.ceiling_s() == pytest.approx(ceiling)


@covers("TUN-22")
def test_waits_are_spread_over_the_whole_range() -> None:
    rng = Random(1)
    waits = []
    for _ in range(400):
        link = Link(1, LinkTimers(backoff_first_s=1.0), rng, now=0.0)
        link.handle_timer(now=0.0)
        link.failed(1, "x", now=0.0)
        waits.append(link.next_timer() or 0.0)
    assert 0.0 <= min(waits) < 0.05
    assert 0.95 < max(waits) <= 1.0
    assert sum(waits) / len(waits) == pytest.approx(0.5, abs=0.05)


@covers("TUN-23")
def test_only_a_stable_tunnel_starts_the_waits_anew() -> None:
    book = Playbook(stable_s=10)
    book.run("timer", "failed 1 x", "timer", "failed 2 x", "timer", "accepted 3", "after 9", "ended 3 lost")
    assert book.link.snapshot().failures == 3
    book.run("timer", "accepted 4", "after 10", "ended 4 lost")
    assert book.link.snapshot().failures == 1
    assert book.link.next_timer() == pytest.approx(book.now + 0.1)


# Giving up.


@covers("TUN-26")
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_an_answer_that_cannot_heal_gives_up(status: int) -> None:
    book = Playbook()
    assert book.run("timer", f"refused 1 {status} because") == [f"give up {status}"]
    assert book.link.finished
    assert book.link.next_timer() is None


@covers("TUN-26")
@pytest.mark.parametrize("status", [200, 302, 402, 405, 408, 418, 426, 429, 431, 500, 502, 503, 504])
def test_every_other_answer_is_tried_again(status: int) -> None:
    book = Playbook()
    assert book.run("timer", f"refused 1 {status} because") == []
    assert book.asked("timer") == ["dial 2 server 0"]


@covers("TUN-26")
def test_it_gives_up_only_when_every_server_says_so() -> None:
    book = Playbook(servers=2)
    assert book.run("timer", "refused 1 404") == []
    assert book.run("timer", "failed 2 down", "timer", "refused 3 503") == []
    assert book.run("timer", "refused 4 401", "timer", "failed 5 down") == []
    assert book.run("timer", "failed 6 down", "timer", "refused 7 403") == ["give up 403"]


@covers("TUN-26")
def test_a_server_that_accepted_no_longer_counts_as_refusing() -> None:
    book = Playbook(servers=2)
    book.run("timer", "refused 1 404", "timer", "failed 2 down", "timer", "accepted 3", "ended 3 lost")
    assert book.run("timer", "refused 4 404 node") == []


@covers("TUN-26", "TUN-33")
def test_who_gives_up_says_which_server_said_what() -> None:
    book = Playbook(servers=2)
    book.run("timer", "refused 1 404 first", "timer")
    book.link.refused(2, Refusal(401, "second"), now=book.now)
    announced, gave_up = book.link.outgoing()
    assert announced == Announce(Change.GIVEN_UP, 1, "401 second")
    assert gave_up == GiveUp(1, "401 second")


@covers("TUN-27")
def test_once_registered_only_a_node_can_make_it_give_up() -> None:
    book = opened()
    book.run("ended 1 lost", "timer")
    assert book.asked("refused 2 404 from-a-balancer") == []
    assert book.run("timer", "refused 3 404 node") == ["give up 404"]


# Moving.


@covers("TUN-24")
def test_a_dial_follows_a_goaway_at_once() -> None:
    book = opened()
    book.step("goaway 1 bye")
    assert book.link.next_timer() == book.now


@covers("TUN-24", "TUN-29")
def test_goaways_in_a_storm_are_followed_at_the_pace_of_the_backoff() -> None:
    book = opened(stable_s=10, backoff_first_s=0.1)
    waits = []
    for tunnel in range(1, 9):
        book.step(f"goaway {tunnel} again")
        waits.append(round((book.link.next_timer() or 0.0) - book.now, 6))
        book.run("timer", f"accepted {tunnel + 1}", f"ended {tunnel}")
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    book.step("goaway 9 again")
    assert book.link.next_timer() == book.now, "the last dial at once is long ago"


@covers("TUN-28")
def test_the_old_tunnel_stays_until_the_new_one_is_accepted() -> None:
    book = opened()
    book.step("goaway 1")
    assert book.step("idle 1") == []
    assert book.run("timer", "failed 2 x", "timer") == ["dial 3 server 0"]
    assert book.asked("accepted 3") == ["serve 3", "close 1 1000"]
    assert book.step("idle 1") == []
    assert book.step("ended 1") == []


@covers("TUN-28")
def test_the_old_tunnel_stays_until_it_is_idle() -> None:
    book = opened()
    assert book.run("goaway 1", "timer", "accepted 2") == ["serve 2"]
    assert book.link.snapshot().leaving == (1,)
    assert book.run("after 3600") == []
    assert book.step("idle 1") == ["close 1 1000"]
    assert book.link.snapshot().closing == (1,)


@covers("TUN-28")
def test_a_tunnel_that_is_closing_is_not_closed_again_by_the_next_one() -> None:
    book = opened(stable_s=0)
    assert book.run("goaway 1", "idle 1", "timer", "accepted 2") == ["serve 2", "close 1 1000"]
    assert book.run("goaway 2", "timer", "accepted 3") == ["serve 3"]


def test_a_goaway_and_an_idleness_that_concern_no_tunnel_of_that_kind_are_ignored() -> None:
    book = opened()
    assert book.step("goaway 7") == []
    assert book.step("idle 1") == []
    assert book.step("ended 7") == []
    book.step("goaway 1")
    assert book.step("goaway 1") == []


@covers("TUN-29")
def test_leaving_tunnels_are_bounded_and_the_oldest_goes_first() -> None:
    book = opened(draining_max=1, stable_s=0)
    assert book.run("goaway 1", "timer", "accepted 2") == ["serve 2"]
    assert book.asked("goaway 2") == ["close 1 1001"]
    assert book.run("timer", "accepted 3", "goaway 3") == ["close 2 1001"]
    assert book.run("timer", "accepted 4", "goaway 4") == ["abort 1", "close 3 1001"]
    assert book.link.snapshot().leaving == (4,)
    assert book.link.snapshot().closing == (2, 3)


@covers("TUN-31")
def test_a_close_without_an_answer_is_cut() -> None:
    book = opened(abort_s=8)
    book.run("goaway 1", "timer", "accepted 2", "idle 1")
    assert book.link.next_timer() == book.now + 8
    assert book.step("after 8") == ["abort 1"]
    assert book.step("ended 1") == []
    assert book.link.state is LinkState.OPEN


# Ending.


@covers("TUN-30")
def test_a_stop_lets_crossing_requests_arrive_before_it_closes() -> None:
    book = opened(linger_s=0.5)
    assert book.asked("stop") == ["goaway 1"]
    assert book.asked("idle 1") == []
    assert book.link.next_timer() == book.now + 0.5
    assert book.asked("after 0.4") == []
    assert book.asked("after 0.1") == ["close 1 1001"]
    assert book.step("ended 1") == ["log closed server 0"]
    assert book.link.finished


@covers("TUN-30")
def test_a_stop_while_moving_ends_both_tunnels_and_the_dial() -> None:
    book = opened()
    book.run("goaway 1", "timer")
    assert book.asked("stop") == ["abort 2", "goaway 1"]
    assert book.asked("accepted 2") == ["abort 2"]
    assert book.run("after 1", "idle 1") == ["close 1 1001"]
    book.step("ended 1")
    assert book.link.state is LinkState.CLOSED


@covers("TUN-31")
def test_a_stop_closes_what_is_left_after_the_grace_period() -> None:
    book = opened(grace_period_s=30, abort_s=8)
    book.run("stop")
    assert book.asked("after 29.9") == []
    assert book.asked("after 0.1") == ["close 1 1001"]
    assert book.asked("after 8") == ["abort 1"]
    assert book.link.state is LinkState.CLOSED


@covers("TUN-31")
def test_every_tunnel_gets_its_closing_handshake_at_the_end_of_the_grace_period() -> None:
    book = opened(draining_max=1, stable_s=0)
    book.run("goaway 1", "timer", "accepted 2", "stop")
    assert book.asked("after 30") == ["close 1 1001", "close 2 1001"]


def test_a_tunnel_that_is_closing_needs_no_goaway() -> None:
    book = opened()
    book.run("goaway 1", "timer", "accepted 2", "idle 1")
    assert book.asked("stop") == ["goaway 2"]


@covers("TUN-32")
@pytest.mark.parametrize("state", list(LinkState))
def test_a_second_stop_ends_everything_at_once(state: LinkState) -> None:
    book = Playbook()
    book.run(*REACHING[state], "stop")
    book.step("stop")
    assert book.link.finished
    assert book.link.next_timer() is None
    assert book.link.state is (LinkState.GIVEN_UP if state is LinkState.GIVEN_UP else LinkState.CLOSED)


@covers("TUN-30", "TUN-32")
def test_a_link_that_gives_up_finishes_its_old_tunnel() -> None:
    book = opened()
    book.run("goaway 1", "timer")
    assert book.asked("refused 2 401 node") == ["give up 401", "goaway 1"]
    assert not book.link.finished
    assert book.asked("stop") == []
    assert book.asked("stop") == ["abort 1"]
    assert book.link.finished
    other = opened()
    other.run("goaway 1", "timer", "refused 2 401 node", "after 1")
    assert other.asked("idle 1") == ["close 1 1001"]
    other.step("ended 1")
    assert other.link.finished


# What is logged.


@covers("TUN-33")
def test_the_same_failure_of_the_same_server_is_logged_once() -> None:
    book = Playbook(servers=2)
    book.step("timer")
    assert book.step("failed 1 refused") == ["log retrying server 0: refused"]
    book.step("timer")
    assert book.step("failed 2 timeout") == ["log retrying server 1: timeout"]
    book.step("timer")
    assert book.step("failed 3 refused") == []
    book.step("timer")
    assert book.step("failed 4 refused") == ["log retrying server 1: refused"]
    book.run("timer", "accepted 5", "ended 5 x", "timer")
    assert book.step("failed 6 refused") == ["log retrying server 1: refused"]


@covers("TUN-33")
def test_failures_of_one_server_that_take_turns_are_logged_once_each() -> None:
    book = Playbook()
    said: list[str] = []
    for number in range(1, 31):
        book.step("timer")
        said += book.step(f"failed {number} reason {number % 3}")
    assert len(said) == 3
    for number in range(31, 41):
        book.step("timer")
        said += book.step(f"failed {number} other {number}")
    assert len(said) == 13
    book.step("timer")
    assert book.step("failed 41 other 40") == []
    book.step("timer")
    assert book.step("failed 42 reason 1") == ["log retrying server 0: reason 1"], "what is remembered is bounded"


@covers("TUN-33")
def test_a_change_is_announced_with_its_reason_and_a_wait_follows() -> None:
    book = Playbook()
    book.run("timer")
    book.link.failed(1, "refused", now=book.now)
    assert book.link.outgoing() == [Announce(Change.RETRYING, 0, "refused")]
    book.step("timer")
    book.link.accepted(2, now=book.now)
    assert book.link.outgoing() == [Serve(2), Announce(Change.REGISTERED, 0)]
    book.link.ended(2, "silent\n", now=book.now)
    assert book.link.outgoing() == [Announce(Change.LOST, 0, "silent?")]
    assert book.link.next_timer() == pytest.approx(book.now + 0.2)


@covers("TUN-33")
def test_what_the_peer_wrote_is_one_short_printable_line() -> None:
    link = Link(1, LinkTimers(), Longest(), now=0.0)
    link.handle_timer(now=0.0)
    link.refused(1, Refusal(503, "a\r\nb\x1b[2J\u202e" + "x" * 999), now=0.0)
    announced = [command for command in link.outgoing() if isinstance(command, Announce)]
    assert [command.change for command in announced] == [Change.RETRYING]
    assert announced[0].reason.startswith("503 a??b?[2J?xxx")
    assert len(announced[0].reason) <= 200
    assert link.next_timer() == pytest.approx(0.1)


# Other times while it runs.


def test_other_timers_count_for_what_begins_from_then_on() -> None:
    book = Playbook(backoff_first_s=1.0, backoff_max_s=1.0, grace_period_s=60.0)
    book.run("timer", "failed 1 down")
    due = book.link.next_timer()
    book.link.reconfigure(LinkTimers(backoff_first_s=7.0, backoff_max_s=7.0, grace_period_s=5.0))
    assert book.link.next_timer() == due, "a wait that has begun is as long as it was to be"
    book.run("timer", "failed 2 down")
    assert book.link.next_timer() == book.now + 7.0
    book.run("timer", "accepted 3", "stop")
    assert book.link.state is LinkState.DRAINING
    assert book.asked("after 4.9") == []
    assert book.asked("after 0.2") == ["close 3 1001"]


@covers("TUN-21")
def test_a_dial_that_took_too_long_is_given_up_once() -> None:
    book = Playbook()
    assert book.run("timer", "timer") == ["abort 1"]
    assert book.asked("after 0.01") == []


@covers("TUN-23")
def test_a_tunnel_that_was_stable_until_its_goaway_forgives_what_failed_before() -> None:
    book = Playbook(stable_s=10.0)
    book.run("timer", "failed 1 down", "timer", "accepted 2", "after 10", "goaway 2 leaving")
    assert book.link.snapshot().failures == 0


@covers("TUN-23")
@pytest.mark.parametrize("reason", ["leaving", "move"])
def test_a_node_that_was_long_in_leaving_is_looked_for_at_once_when_it_has_gone(reason: str) -> None:
    book = opened(stable_s=10.0)
    book.run("after 10", f"goaway 1 {reason}", *(step for n in range(2, 12) for step in ("timer", f"failed {n} down")))
    assert book.link.next_timer() == pytest.approx(book.now + 15)
    book.step("ended 1 lost")
    assert book.link.next_timer() == pytest.approx(book.now + 0.1)
    assert book.asked("timer") == ["dial 12 server 0"]


@covers("TUN-23", "TUN-24")
def test_a_node_that_has_gone_with_its_goaway_is_dialled_at_once() -> None:
    book = opened(stable_s=10.0)
    book.run("after 10", "goaway 1", "ended 1")
    assert book.link.next_timer() == book.now


@covers("TUN-23")
def test_a_dial_under_way_when_the_leaving_node_has_gone_fails_as_the_first() -> None:
    book = opened(stable_s=10.0)
    book.run("after 10", "goaway 1", "timer", "failed 2 down", "timer", "failed 3 down", "timer", "ended 1 lost")
    book.step("failed 4 down")
    assert book.link.next_timer() == pytest.approx(book.now + 0.1)


@covers("TUN-23")
def test_the_end_of_a_leaving_tunnel_is_no_news_where_it_was_not_stable_or_another_serves_or_it_was_closed() -> None:
    book = opened(stable_s=10.0)
    book.run("after 9", "goaway 1", "timer", "failed 2 down", "timer", "failed 3 down", "ended 1 lost")
    assert book.link.snapshot().failures == 2
    assert book.link.next_timer() == pytest.approx(book.now + 0.2)
    book = opened(stable_s=10.0)
    book.run("after 10", "goaway 1", "timer", "accepted 2", "ended 1 lost")
    assert book.link.state is LinkState.OPEN
    book = opened(stable_s=10.0)
    book.run(
        "after 10", "goaway 1", "timer", "accepted 2", "idle 1", "ended 2 lost", "timer", "failed 3 down", "ended 1"
    )
    assert book.link.snapshot().failures == 2


# Several tunnels, and moving.


def pair(**timers: float) -> tuple[Playbook, Playbook]:
    """Two links of one endpoint, each with a server of its own, the first with a tunnel to node a."""
    spread = Spread()
    first, second = (Playbook(2, spread, place, **timers) for place in (0, 1))
    first.run("timer", "accepted 1 a")
    return first, second


@covers("TUN-41")
def test_the_links_of_an_endpoint_begin_with_different_servers() -> None:
    assert [Playbook(2, Spread(), place).asked("timer") for place in (0, 1, 2)] == [
        ["dial 1 server 0"],
        ["dial 1 server 1"],
        ["dial 1 server 0"],
    ]


@covers("TUN-37")
def test_a_link_names_the_nodes_where_the_others_are() -> None:
    first, second = pair()
    assert second.asked("timer") == ["dial 1 server 1 not a"]
    second.step("accepted 1 b")
    first.run("goaway 1 leaving")
    assert first.asked("timer") == ["dial 2 server 1 not b"], "its own node goes away and refuses by itself"


@covers("TUN-38")
def test_elsewhere_is_no_failure_and_the_next_server_is_dialled_soon() -> None:
    _, second = pair()
    second.step("timer")
    assert second.step("refused 1 503 elsewhere node") == []
    assert second.link.snapshot().failures == 0
    assert second.link.next_timer() == second.now + 0.25
    assert second.asked("timer") == ["dial 2 server 0 not a"]


@covers("TUN-26", "TUN-38")
def test_a_server_whose_node_says_elsewhere_no_longer_counts_as_refusing() -> None:
    _, second = pair()
    second.run("timer", "refused 1 404 node", "timer", "failed 2 down", "timer", "refused 3 503 elsewhere node")
    assert second.run("timer", "refused 4 404 node") == []


@covers("TUN-37")
def test_a_link_that_is_always_sent_elsewhere_takes_what_it_gets_at_last() -> None:
    _, second = pair(choosy_max=3)
    dials = []
    for number in range(1, 5):
        dials += second.asked("timer")
        second.step(f"refused {number} 503 elsewhere node")
    assert [" not a" in dial for dial in dials] == [True, True, True, False]
    assert second.link.snapshot().failures == 1, "who was not asked to and says elsewhere has refused"


@covers("TUN-37")
@pytest.mark.parametrize("end", ["goaway 1 leaving", "goaway 1 move", "ended 1 lost", "stop"])
def test_a_node_whose_tunnel_is_no_longer_current_is_not_named_by_the_others(end: str) -> None:
    first, second = pair()
    first.step(end)
    assert second.asked("timer") == ["dial 1 server 1"]


@covers("TUN-37")
def test_a_node_that_has_not_said_its_name_is_not_named() -> None:
    book = opened()
    assert book.run("goaway 1 move", "timer") == ["dial 2 server 0"]


@covers("TUN-37")
@pytest.mark.parametrize("end", ["goaway 2 leaving", "ended 2 lost"])
def test_a_link_is_as_choosy_again_after_each_tunnel(end: str) -> None:
    _, second = pair(choosy_max=1)
    second.run("timer", "refused 1 503 elsewhere node", "timer", "accepted 2 b", end)
    assert second.asked("timer") == ["dial 3 server 1 not a"]


@covers("TUN-39")
def test_a_link_that_came_to_the_node_of_another_one_looks_further_while_it_serves() -> None:
    _, second = pair()
    second.step("timer")
    assert second.asked("accepted 1 a") == ["serve 1"]
    assert second.link.serving
    assert second.asked("timer") == ["dial 2 server 0 not a"]
    assert second.asked("accepted 2 b") == ["serve 2", "goaway 1"]
    assert second.link.snapshot().current == 2


@covers("TUN-28", "TUN-39")
def test_a_tunnel_that_the_link_wants_to_leave_serves_no_longer_once_its_node_goes_away() -> None:
    _, second = pair()
    second.run("timer", "accepted 1 a", "idle 1")
    assert second.asked("goaway 1 leaving") == []
    assert not second.link.serving
    assert second.asked("timer") == ["dial 2 server 0 not a"], "where the other link is"
    assert second.asked("accepted 2 b") == ["serve 2"], "it may have got a request since it was idle"
    assert second.asked("idle 1") == ["close 1 1000"]


@covers("TUN-28", "TUN-30", "TUN-39")
def test_a_tunnel_that_was_idle_while_it_served_on_is_closed_when_it_is_idle_again() -> None:
    _, second = pair(linger_s=0.5)
    second.run("timer", "accepted 1 a", "idle 1")
    assert second.asked("stop") == ["goaway 1"]
    assert second.asked("after 0.6") == []
    assert second.asked("idle 1") == ["close 1 1001"]


@covers("TUN-39", "TUN-40")
def test_a_link_that_looks_further_keeps_only_the_tunnel_that_it_got_last() -> None:
    _, second = pair(linger_s=0.5)
    second.run("timer", "accepted 1 a", "timer")
    assert second.asked("accepted 2 a") == ["serve 2", "goaway 1"]
    assert second.link.serving
    assert second.asked("idle 1") == [], "a request may be crossing the goaway"
    second.run("after 0.5")
    assert second.link.snapshot().closing == (1,), "though the link has no tunnel yet that it stays with"
    assert second.link.snapshot().leaving == (2,)
    assert second.asked("idle 2") == [], "it serves, however idle"


@covers("TUN-39", "TUN-37")
def test_a_link_that_comes_to_the_same_node_again_and_again_stays_there() -> None:
    _, second = pair(choosy_max=2, draining_max=4)
    for number in (1, 2, 3):
        second.run("timer", f"accepted {number} a")
    assert second.link.snapshot().state is LinkState.OPEN
    assert second.link.snapshot().current == 3


@covers("TUN-40")
def test_a_tunnel_that_is_asked_to_move_serves_until_there_is_another_and_a_goodbye_has_crossed() -> None:
    book = Playbook(1, linger_s=0.5)
    book.run("timer", "accepted 1 a")
    assert book.step("goaway 1 move") == ["log moving server 0: the node has more than its share"]
    assert book.link.serving
    assert book.run("idle 1", "timer") == ["dial 2 server 0 not a"]
    assert book.asked("accepted 2 b") == ["serve 2", "goaway 1"]
    assert book.asked("idle 1") == []
    assert book.asked("after 0.4") == []
    assert book.asked("after 0.1") == ["close 1 1000"]


@covers("TUN-40")
def test_a_tunnel_that_ends_while_it_moves_leaves_nothing_to_be_choosy_about() -> None:
    book = Playbook(1)
    book.run("timer", "accepted 1 a", "goaway 1 move", "ended 1 lost")
    assert not book.link.serving
    assert book.asked("timer") == ["dial 2 server 0"]


@covers("TUN-40", "TUN-30")
def test_a_stop_while_a_tunnel_moves_says_goodbye_on_it() -> None:
    book = Playbook(1)
    book.run("timer", "accepted 1 a", "goaway 1 move")
    assert book.asked("stop") == ["goaway 1"]
    assert not book.link.serving


@covers("TUN-23")
def test_nodes_that_die_one_after_the_other_leave_no_endpoint_waiting() -> None:
    book = Playbook(1)
    for number in range(1, 20):
        book.run("timer", f"accepted {number}", "after 2", f"ended {number} lost")
        assert book.link.next_timer() == pytest.approx(book.now + LinkTimers().backoff_first_s)


@covers("TUN-40")
def test_a_node_that_asks_again_to_be_moved_from_is_served_all_the_same() -> None:
    book = opened()
    assert book.link.serving
    book.run("goaway 1 move", "goaway 1 move")
    assert book.link.serving
    book.step("goaway 1 leaving")
    assert not book.link.serving


@covers("TUN-40")
def test_that_a_tunnel_was_idle_before_its_goaway_does_not_close_it() -> None:
    book = opened(linger_s=0.5)
    assert book.run("goaway 1 move", "idle 1", "timer", "accepted 2") == ["serve 2", "goaway 1"]
    assert book.asked("after 1") == []
    assert book.asked("idle 1") == ["close 1 1000"]


@covers("TUN-40")
def test_a_third_tunnel_does_not_close_the_first_before_its_time() -> None:
    book = opened(linger_s=0.5, stable_s=0.0)
    book.run("goaway 1 move", "timer", "accepted 2", "idle 1", "goaway 2 leaving", "timer")
    assert book.asked("accepted 3") == ["serve 3"]
    assert book.asked("after 0.4") == []
    assert book.asked("timer") == ["close 1 1000"]


@covers("TUN-29")
def test_tunnels_that_nodes_asked_to_be_moved_from_are_bounded_as_well() -> None:
    book = opened(draining_max=1, stable_s=0.0)
    book.run("goaway 1 move", "timer", "accepted 2")
    assert book.asked("goaway 2 move") == ["close 1 1001"]
    assert book.link.serving
