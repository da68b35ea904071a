"""TLS to a service and to a server: by name, against the authority that was given, and never without."""

from __future__ import annotations

import _socket
import ssl
from pathlib import Path
from typing import Any

import gevent.ssl
import pytest
from gevent.server import StreamServer

from pico.agent.agent import Agent
from pico.agent.dialling import Server, connect
from pico.config import AgentConfig, EndpointTarget, HttpLimits
from pico.protocol.rpc import ResetCode
from pico.protocol.tunnel import Refusal
from pico.transport.certificates import client_context
from tests.agent.harness import Bench, answering, serving
from tests.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def server_context(authority: Authority, *names: str) -> Any:
    files = authority.issue(*names)
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def test_a_service_is_reached_by_tls_and_kept_alive(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(answering(OK), ssl_context=server_context(authority, "localhost")) as server:
        assert isinstance(server, StreamServer)
        made = Bench(server.server_port, tls=client_context(authority.ca_file), host="localhost")
        for _ in range(3):
            assert bytes(made.node.get().body) == b"hello"
        assert made.metrics.service_connections_opened == 1
        made.close()


@pytest.mark.parametrize("names", [("other.example",), ()])
def test_a_service_that_cannot_prove_its_name_is_unreachable(tmp_path: Path, names: tuple[str, ...]) -> None:
    authority = Authority(tmp_path)
    trusted = authority.ca_file if names else ""  # else only the system's
    with serving(answering(OK), ssl_context=server_context(authority, *(names or ("localhost",)))) as server:
        made = Bench(server.server_port, tls=client_context(trusted), host="localhost")
        call = made.node.get()
        assert call.reset is not None
        assert (call.reset.code, call.reset.untouched) == (ResetCode.SERVICE_UNREACHABLE, True)
        made.close()


def test_the_dot_at_the_end_of_a_name_is_no_part_of_what_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _socket.getaddrinfo
    monkeypatch.setattr(_socket, "getaddrinfo", lambda _, *rest: real("127.0.0.1", *rest))
    authority = Authority(tmp_path)
    asked: list[str | None] = []
    context = server_context(authority, "localhost")
    context.sni_callback = lambda sock, name, _: asked.append(name)
    with serving(answering(OK), ssl_context=context) as server:
        made = Bench(server.server_port, tls=client_context(authority.ca_file), host="localhost.")
        assert bytes(made.node.get().body) == b"hello"
        made.close()
    assert asked == ["localhost"]


def test_a_server_is_reached_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(answering(REFUSAL), ssl_context=server_context(authority, "localhost")) as server:
        outcome = connect(
            Server("localhost", server.server_port, True),
            "web",
            timeout_s=5.0,
            tls=client_context(authority.ca_file),
            limits=HttpLimits(),
        )
    assert outcome == Refusal(503, "Service Unavailable")


def test_a_server_that_cannot_prove_its_name_is_a_failure_with_a_sentence(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(answering(REFUSAL), ssl_context=server_context(authority, "localhost")) as server:
        address = Server("localhost", server.server_port, True)
        outcome = connect(address, "web", timeout_s=5.0, tls=client_context(), limits=HttpLimits())
    assert isinstance(outcome, str)
    assert "certificate" in outcome.lower()


def test_an_agent_has_a_context_only_for_what_is_dialled_by_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    def agent(server: str, *, tls: bool) -> Agent:
        target = EndpointTarget(endpoint_id="web", host="localhost", port=1, tls=tls)
        config = AgentConfig(
            servers=(server,), endpoints=(target,), ca_file=authority.ca_file, service_ca_file=authority.ca_file
        )
        return Agent(config, write_access_log=lambda text: None)

    plain, secure = agent("http://node", tls=False), agent("https://node", tls=True)
    assert plain._materials.server_tls is None
    assert plain._served["web"]._services[0]._tls is None
    assert secure._materials.server_tls is not None
    assert secure._served["web"]._services[0]._tls is not None
