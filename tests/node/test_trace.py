"""The trace of a request through two nodes and an agent: untouched, and in the access log where it is valid."""

from __future__ import annotations

import json
from random import Random

from pico.agent.agent import Agent
from pico.config import AgentConfig, EndpointTarget
from tests.agent.harness import read_head, serving
from tests.node.clusters import HOST, running_cluster
from tests.node.harness import Client, running_node, until
from tests.rules import covers

VALID = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
VALUES = {
    "valid": (b"traceparent: " + VALID, b"tracestate: congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
    "spelled otherwise": (b"TraceParent:" + VALID, b"TRACESTATE:a=1", b"tracestate:\tb=2 "),
    "later version": (b"traceparent: 42-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",),
    "invalid": (b"traceparent: 00-0-0-0", b"tracestate: ,=,\xff\xfe"),
    "twice": (b"traceparent: " + VALID, b"traceparent: " + VALID),
    "empty": (b"traceparent:", b"tracestate: "),
    "state alone": (b"tracestate: a=" + b"x" * 5000,),
}


@covers("HTTP-69")
def test_what_a_client_says_of_its_trace_reaches_the_service_untouched() -> None:
    heads: list[bytes] = []

    def answer(sock, _) -> None:
        rest = b""
        while True:
            head, rest = read_head(sock, rest)
            if not head:
                return
            heads.append(head)
            sock.sendall(OK)

    with serving(answer) as server, running_cluster(2) as (entry, owner):
        agent = Agent(
            AgentConfig(
                servers=(f"http://{HOST}:{owner.address('upstream-door')[1]}",),
                endpoints=(EndpointTarget(endpoint_id="ep", host=HOST, port=server.server_port),),
            ),
            write_access_log=lambda text: None,
            rng=Random(1),
        )
        agent.start()
        try:
            until(lambda: entry.routes.served("ep"), "the endpoint at the other node")
            for lines in VALUES.values():
                response = Client(entry).get(b"/", b"ep.example.com", *(line + b"\r\n" for line in lines))
                assert response.status == 200
                sent = [line for line in heads[-1].split(b"\r\n") if line.lower().startswith(b"trace")]
                assert sent == list(lines)
        finally:
            agent.stop()
            agent.stop()
            assert agent.ended.wait(5)
            agent.close()
    assert len(heads) == len(VALUES)


def test_the_access_log_has_the_trace_id_of_a_valid_field() -> None:
    with running_node() as node:
        for lines in VALUES.values():
            Client(node).get(b"/", b"nobody.example.com", *(line + b"\r\n" for line in lines))
        node.access_log.close(5)
        found = [json.loads(line)["trace_id"] for text in node.lines for line in text.splitlines()]
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert found == [trace, trace, trace, "", "", "", ""]
