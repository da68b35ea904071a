"""An agent that dies in the middle: the client learns that it has not got everything, and the node goes on."""

from __future__ import annotations

import signal

import pytest

from tests.system.processes import CURL_S, Agent, Node, Programs, curl, curling, until
from tests.system.service import BEGINNING, Service

CUT_SHORT = {18, 56}  # curl: transfer closed with bytes remaining; failure in receiving


@pytest.fixture(scope="module")
def node(shared_programs: Programs) -> Node:
    return shared_programs.node("--endpoint-wait=20s")


@pytest.fixture(scope="module")
def bystander(shared_programs: Programs, node: Node, service: Service) -> Agent:
    return shared_programs.agent(node.upstream_url, "bystander", service.port).registered()


@pytest.fixture
def agent(programs: Programs, node: Node, service: Service) -> Agent:
    return programs.agent(node.upstream_url, "short-lived", service.port).registered()


@pytest.mark.parametrize(
    "number,framing",
    [(signal.SIGKILL, "chunked"), (signal.SIGKILL, "length"), (signal.SIGTERM, "chunked")],
    ids=["killed-chunked", "killed-length", "told twice to stop"],
)
def test_curl_never_takes_a_part_for_the_whole(
    programs: Programs,
    node: Node,
    bystander: Agent,
    agent: Agent,
    service: Service,
    number: signal.Signals,
    framing: str,
) -> None:
    with curling("-H", "x-pico-endpoint: short-lived", f"{node.url}/stuck?framing={framing}") as running:
        assert running.stdout is not None
        assert len(running.stdout.read(BEGINNING)) == BEGINNING
        service.until_waiting()
        agent.send(number)
        if number == signal.SIGTERM:
            agent.until_said("finishes its requests")
            assert running.poll() is None, "the request in flight is left alone"
            agent.send(number)
        code = running.wait(CURL_S)
        assert running.stdout.read() == b""
    service.permit()
    assert code in CUT_SHORT
    # The node goes on: for others at once, and for the same endpoint when it is back.
    assert curl("--fail", "-H", "x-pico-endpoint: bystander", f"{node.url}/").stdout == b"hello\n"
    programs.agent(node.upstream_url, "short-lived", service.port).registered()
    assert curl("--fail", "-H", "x-pico-endpoint: short-lived", f"{node.url}/").stdout == b"hello\n"
    assert bystander.process.poll() is None
    assert node.process.poll() is None
    assert until(lambda: node.metric("pico_streams") == 0, "the end of every stream")


def test_an_http_1_0_client_is_cut_off_too(node: Node, agent: Agent, service: Service) -> None:
    # A body that ends with the connection has nothing but a reset to tell that it is not complete.
    with curling("-0", "-H", "x-pico-endpoint: short-lived", f"{node.url}/stuck?framing=chunked") as running:
        assert running.stdout is not None
        assert len(running.stdout.read(BEGINNING)) == BEGINNING
        service.until_waiting()
        agent.send(signal.SIGKILL)
        assert running.wait(CURL_S) in CUT_SHORT
    service.permit()


def test_a_service_that_breaks_off_is_told_to_the_client_as_well(node: Node, agent: Agent, service: Service) -> None:
    for framing in ("chunked", "length"):
        with curling("-H", "x-pico-endpoint: short-lived", f"{node.url}/stuck?framing={framing}") as running:
            assert running.stdout is not None
            assert len(running.stdout.read(BEGINNING)) == BEGINNING
            service.until_waiting()
            service.permit()  # it closes without having sent the rest
            assert running.wait(CURL_S) in CUT_SHORT
    assert agent.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])
def test_a_get_outlives_the_only_agent(
    programs: Programs, node: Node, agent: Agent, service: Service, number: signal.Signals
) -> None:
    """It was safe to retry, and the endpoint came back within --endpoint-wait."""
    with curling("--fail", "-H", "x-pico-endpoint: short-lived", f"{node.url}/wait") as running:
        service.until_waiting()
        agent.send(number)
        if number == signal.SIGKILL:
            agent.wait()
            programs.agent(node.upstream_url, "short-lived", service.port).registered()
            service.until_waiting()  # it has come again, through the new agent
            service.permit()  # for the one that nobody waits for
        service.permit()
        assert running.stdout is not None
        assert running.stdout.read() == b"it was worth it\n"
        assert running.wait(CURL_S) == 0
    if number == signal.SIGTERM:
        assert agent.wait() == 0


def test_a_request_between_two_agents_waits_for_the_second(
    programs: Programs, node: Node, bystander: Agent, agent: Agent, service: Service
) -> None:
    agent.send(signal.SIGKILL)
    until(lambda: node.metric("pico_endpoints") == 1, "the node's notice")
    with curling("--fail", "-d", "not idempotent", "-H", "x-pico-endpoint: short-lived", f"{node.url}/echo") as running:
        until(lambda: node.metric("pico_requests_in_flight") == 1, "the request")
        programs.agent(node.upstream_url, "short-lived", service.port).registered()
        assert running.stdout is not None
        assert running.stdout.read() == b"not idempotent"
        assert running.wait(CURL_S) == 0


def test_a_post_that_the_killed_agent_had_is_not_sent_again(
    programs: Programs, node: Node, agent: Agent, service: Service
) -> None:
    programs.agent(node.upstream_url, "short-lived", service.port).registered()
    with curling("-d", "not idempotent", "-H", "x-pico-endpoint: short-lived", f"{node.url}/wait") as running:
        service.until_waiting()
        agent.send(signal.SIGKILL)  # the first in turn has it
        assert b"tunnel_lost" in running.communicate(timeout=CURL_S)[0]
    assert not service.is_waiting(), "it came once"
    service.permit()
