"""Agents join and leave all the while, and every response belongs to its request.

What is asserted, exactly. Agents leave by SIGTERM (told to) and by SIGKILL; two others are always there.

- Every response that says 200 carries the token of its request, in a field and in a body of that token's own bytes;
  every request body that reached the service is the one of its token.
- GET: no failure of any kind, whether its agent was told to leave or killed. It is idempotent, so it is sent again.
- POST, agents told to leave: no failure, and the service has seen each token exactly once.
- POST, agents killed: the only failure is 502 ``tunnel_lost``; the service has seen each token at most once, and each
  that was answered exactly once. It is never sent again once an agent may have passed it on.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.system.processes import Agent, Node, Programs
from tests.system.tokens import TokenService

CONNECTIONS = 128
STAYING = 2
LEFT_MIN = 4
WAIT_S = 150.0
SEED = 20261123

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def tokens() -> Iterator[TokenService]:
    with TokenService() as serving:
        yield serving


@contextmanager
def loading(node: Node, requests: int, methods: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "tests.system.load",
        str(node.proxy_port),
        str(CONNECTIONS),
        str(requests),
        methods,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def churn(
    programs: Programs, node: Node, tokens: TokenService, requests: int, ways: list[signal.Signals]
) -> dict[signal.Signals, int]:
    """One agent comes, then one goes, until enough has been asked and enough have gone."""
    rng = random.Random(SEED)
    agents = [programs.agent(node.upstream_url, "tokens", tokens.port).registered() for _ in range(STAYING)]
    left = dict.fromkeys(ways, 0)
    deadline = time.monotonic() + WAIT_S
    while tokens.seen.total() < requests or min(left.values()) < LEFT_MIN:
        assert time.monotonic() < deadline, f"{tokens.seen.total()} requests, {left}"
        agents.append(programs.agent(node.upstream_url, "tokens", tokens.port).registered())
        leaving: Agent = agents.pop(rng.randrange(len(agents)))
        way = min(ways, key=lambda one: (left[one], rng.random()))
        leaving.send(way)
        left[way] += 1
        if way == signal.SIGTERM:
            assert leaving.wait() == 0
    return left


def run(programs: Programs, tokens: TokenService, requests: int, methods: str, ways: list[signal.Signals]) -> Any:
    node = programs.node()
    programs.agent(node.upstream_url, "tokens", tokens.port).registered()
    began = time.monotonic()
    with loading(node, requests, methods) as running:
        left = churn(programs, node, tokens, requests, ways)
        said, _ = running.communicate("stop\n", timeout=60)
    outcome = json.loads(said)
    failed = {what: len(which) for what, which in outcome["failed"].items()}
    print(
        f"{sum(outcome['right'].values())} right, {len(outcome['wrong'])} wrong, failed: {failed or 'none'}, ", end=""
    )
    print(f"in {time.monotonic() - began:.1f} s at {CONNECTIONS} connections; left:", end=" ")
    print(", ".join(f"{count} by {way.name}" for way, count in left.items()), end="; ")
    print(f"retries: {node.metric('pico_retries_total'):.0f}")
    assert outcome["wrong"] == []
    assert tokens.wrong == []
    assert sum(outcome["right"].values()) >= requests
    return outcome


def test_ten_thousand_requests_while_agents_are_told_to_leave_and_killed(
    programs: Programs, tokens: TokenService
) -> None:
    outcome = run(programs, tokens, 10_000, "GET,GET,GET,POST", [signal.SIGTERM, signal.SIGKILL])
    assert set(outcome["failed"]) <= {"POST 502 tunnel_lost"}
    assert outcome["right"]["GET"] > 0
    posts = {token: count for token, count in tokens.seen.items() if token.startswith("POST")}
    lost = set(outcome["failed"].get("POST 502 tunnel_lost", []))
    assert all(count == 1 for count in posts.values())
    assert len(posts.keys() - lost) == outcome["right"]["POST"]


def test_no_post_is_lost_or_doubled_while_agents_are_told_to_leave(programs: Programs, tokens: TokenService) -> None:
    outcome = run(programs, tokens, 3_000, "POST", [signal.SIGTERM])
    assert outcome["failed"] == {}
    assert len(tokens.seen) == outcome["right"]["POST"]
    assert set(tokens.seen.values()) == {1}
