"""The address of a socket, as it is told."""

from __future__ import annotations

import pytest

from pico.transport.addresses import readable


@pytest.mark.parametrize(
    "address,host",
    [
        (("::ffff:192.0.2.1", 7, 0, 0), "192.0.2.1"),
        (("::ffff:c000:201", 7, 0, 0), "::ffff:c000:201"),
        (("2001:db8::1", 7, 0, 0), "2001:db8::1"),
        (("::", 7, 0, 0), "::"),
        (("192.0.2.1", 7), "192.0.2.1"),
    ],
)
def test_an_ipv4_address_is_written_as_one_and_no_other(address: tuple[object, ...], host: str) -> None:
    assert readable(address) == (host, 7)
