"""Where a host of this machine can be bound to. How names are looked up for whoever dials: ``test_dial``."""

from __future__ import annotations

from socket import AF_INET, AF_INET6

import gevent.threadpool
import pytest
from gevent.hub import get_hub

from pico.transport import names
from pico.transport.addresses import bound_at


def own_address(host: str, port: int) -> tuple[int, object]:
    return bound_at(host, port, lambda family, address: (family, address))


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no thread left, and none has been started."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setitem(names._names, get_hub(), names.Names())
    monkeypatch.setattr(gevent.threadpool, "start_new_thread", refuse)


def test_an_address_needs_no_thread(no_thread: None) -> None:
    assert own_address("127.0.0.1", 8000) == (AF_INET, ("127.0.0.1", 8000))
    assert own_address("::1", 8000) == (AF_INET6, ("::1", 8000, 0, 0))


def test_a_name_is_looked_up() -> None:
    assert own_address("localhost", 8000) == (AF_INET, ("127.0.0.1", 8000))


def test_a_name_without_a_thread_is_an_error_of_the_system(no_thread: None) -> None:
    with pytest.raises(OSError, match="can't start new thread"):
        own_address("localhost", 8000)


@pytest.mark.parametrize(
    "host,why",
    [
        ("x" * 64, "not a valid name"),
        ("a..b", "not a valid name"),
        ("no-such-name.invalid", "."),
        ("fe80::1%none", "."),
    ],
)
def test_what_leads_nowhere_is_an_error_of_the_system(host: str, why: str) -> None:
    with pytest.raises(OSError, match=why):
        own_address(host, 8000)
