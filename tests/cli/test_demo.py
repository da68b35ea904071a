"""Parts of ``pico demo`` that need neither nodes nor agents."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress

import pytest

from pico.cli.bench.command import stopped_by_signals
from pico.cli.demo import DemoFailed, NodePorts, Ports, requests_of, show
from pico.cli.demo_service import SampleService, Server


@pytest.mark.parametrize("path,fails", [("/time", False), ("/echo", True)])
def test_an_answer_that_is_not_the_expected_one_fails(path: str, fails: bool) -> None:
    with Server(("127.0.0.1", 0), SampleService) as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        node = NodePorts(proxy=service.server_address[1], admin=0, upstream=0, gossip=0)
        request = requests_of(Ports((node, node, node), 0))[0]._replace(path=path)
        try:
            if fails:
                with pytest.raises(DemoFailed, match="request 1 got another answer than 200"):
                    show(1, request)
            else:
                show(1, request)
        finally:
            service.shutdown()
            thread.join(10)


@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_unwind_the_stack(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped, stopped_by_signals():
        signal.raise_signal(number)
    assert stopped.value.code == code
    assert signal.getsignal(number) is before


def test_ports_that_are_taken_are_left_alone() -> None:
    with socket.socket() as taken:
        with suppress(OSError):  # somebody else has it: as good
            taken.bind(("127.0.0.1", 8000))
        taken.listen()
        ports = Ports.choose()
    chosen = [port for node in ports.nodes for port in (node.proxy, node.admin, node.upstream, node.gossip)]
    assert ports.nodes[0].proxy != 8000
    assert len({*chosen, ports.service}) == 13
