"""What a node says of the machine that it is given."""

from __future__ import annotations

import pytest

from pico.config import NodeConfig
from pico.node.server import warn_of_open_files


@pytest.mark.parametrize("files_max,said", [(29, True), (30, False), (-1, False)])
def test_too_few_open_files_for_the_connections_that_it_allows_are_said(
    caplog: pytest.LogCaptureFixture, files_max: int, said: bool
) -> None:
    warn_of_open_files(NodeConfig(client_connections_max=20, upstreams_max=10), files_max)
    line = "the limit of open files is 29, and --client-connections-max and --upstreams-max together need 30"
    assert caplog.messages == ([line] if said else [])
