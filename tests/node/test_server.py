"""What a node says of the machine that it is given, and what it counts at all of its doors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pico.config import NodeConfig
from pico.node.server import warn_of_open_files
from tests.certificates import Authority
from tests.node.clusters import metric
from tests.node.harness import connect, running_node, until


@pytest.mark.parametrize("files_max,said", [(29, True), (30, False), (-1, False)])
def test_too_few_open_files_for_the_connections_that_it_allows_are_said(
    caplog: pytest.LogCaptureFixture, files_max: int, said: bool
) -> None:
    warn_of_open_files(NodeConfig(client_connections_max=20, upstreams_max=10), files_max)
    line = "the limit of open files is 29, and --client-connections-max and --upstreams-max together need 30"
    assert caplog.messages == ([line] if said else [])


def test_a_handshake_of_tls_that_fails_is_counted_at_its_door(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("localhost")
    with running_node(**{f"{door}_tls": files for door in ("proxy", "upstream", "admin")}) as node:
        for count, door in enumerate(("proxy", "upstream", "admin"), start=1):
            for _ in range(count):
                sock = connect(node, f"{door}-door")
                sock.sendall(b"GET / HTTP/1.1\r\nHost: web.x\r\n\r\n")
                sock.close()
        for count, door in enumerate(("proxy", "upstream", "admin"), start=1):
            name = f'pico_tls_handshake_failures_total{{listener="{door}"}}'
            until(lambda name=name, count=count: metric(node, name) == count, name)
