"""The address of a socket: which one is bound, and how one is told."""

from __future__ import annotations

import errno
import socket

import pytest

from pico.transport.addresses import bound_at, readable


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


def without_ipv6(number: int):
    """What binds on a system that has no IPv6, and says so with that error."""

    def bind(family: int, address: tuple[object, ...]) -> tuple[int, tuple[object, ...]]:
        if family == socket.AF_INET6:
            raise OSError(number, "no IPv6 here")
        return family, address

    return bind


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_every_address_is_those_of_ipv4_where_there_is_nothing_else(number: int) -> None:
    assert bound_at("", 7, without_ipv6(number)) == (socket.AF_INET, ("0.0.0.0", 7))


def test_a_port_that_is_taken_is_not_taken_in_the_other_family() -> None:
    with pytest.raises(OSError) as caught:
        bound_at("", 7, without_ipv6(errno.EADDRINUSE))
    assert caught.value.errno == errno.EADDRINUSE


def test_a_host_is_its_own_address_and_the_ipv4_one_of_a_name_goes_before() -> None:
    def bind(family: int, address: tuple[object, ...]) -> tuple[int, object]:
        return family, address[0]

    assert bound_at("::1", 7, bind) == (socket.AF_INET6, "::1")
    assert bound_at("localhost", 7, bind) == (socket.AF_INET, "127.0.0.1")
    assert bound_at("", 7, bind) == (socket.AF_INET6, "::")
