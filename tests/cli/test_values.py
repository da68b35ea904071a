"""What a port, an address, a URL, a duration and a size look like, and what they do not."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pico.cli import values
from pico.cli.values import HostPort, Reader
from pico.errors import ConfigError

GOOD: list[tuple[Reader[object], str, object]] = [
    (values.port, "0", 0),
    (values.port, "65535", 65535),
    (values.count, "1", 1),
    (values.bind_host, "", ""),
    (values.bind_host, "0.0.0.0", "0.0.0.0"),
    (values.bind_host, "::", "::"),
    (values.bind_host, "[::1]", "::1"),
    (values.bind_host, "my_host-1.example", "my_host-1.example"),
    (values.host_port, "localhost:3000", HostPort("localhost", 3000)),
    (values.host_port, "[::1]:3000", HostPort("::1", 3000)),
    (values.server_url, "http://node.example:8002", "http://node.example:8002"),
    (values.server_url, "https://node.example/", "https://node.example"),
    (values.server_url, "http://[::1]:8002", "http://[::1]:8002"),
    (values.admin_url, "localhost:8001", "http://localhost:8001"),
    (values.admin_url, "[::1]:8001", "http://[::1]:8001"),
    (values.admin_url, "https://node.example/a/", "https://node.example/a"),
    (values.host_port_of_url, "http://localhost:3000", (HostPort("localhost", 3000), False)),
    (values.host_port_of_url, "http://localhost", (HostPort("localhost", 80), False)),
    (values.host_port_of_url, "https://[2001:db8::1]/", (HostPort("2001:db8::1", 443), True)),
    (values.duration, "500ms", 0.5),
    (values.duration, "10s", 10.0),
    (values.duration, "1.5m", 90.0),
    (values.duration, "1h", 3600.0),
    (values.size, "512", 512),
    (values.size, "512B", 512),
    (values.size, "64KiB", 65536),
    (values.size, "1.5MiB", 1572864),
    (values.size, "2GiB", 2147483648),
    (values.size, "0.5KiB", 512),
    (values.number, "2.5", 2.5),
    (values.address, "node", HostPort("node", 8003)),
    (values.address, "[::1]:9", HostPort("::1", 9)),
    (values.network, "10.0.0.0/8", "10.0.0.0/8"),
    (values.network, "::1", "::1/128"),
    (values.network, "192.0.2.1", "192.0.2.1/32"),
    (values.one_of("a", "b"), "b", "b"),
    (values.field_value, "web.internal:8080", "web.internal:8080"),
]

BAD: list[tuple[Reader[object], str, str]] = [
    (values.port, "65536", "a port, 0 to 65535"),
    (values.port, "-1", "a port"),
    (values.port, "80 ", "a port"),
    (values.port, "8_0", "a port"),
    (values.port, "٣", "a port"),
    (values.port, "", "a port"),
    (values.count, "0", "1 or more"),
    (values.count, "1.5", "1 or more"),
    (partial(values.count, highest=7), "8", "a whole number, 1 to 7"),
    (values.advertised, "0.0.0.0", "an address of one machine"),
    (values.advertised, "0.0.0.0:8003", "an address of one machine"),
    (values.advertised, "[::]:8003", "an address of one machine"),
    (values.bind_host, "a b", "a host name or an address"),
    (values.bind_host, "host:80", "a host name or an address"),
    (values.bind_host, "[host]", "a host name or an address"),
    (values.host_port, "localhost", "host:port"),
    (values.host_port, "::1:3000", "in brackets"),
    (values.host_port, ":3000", "a host name or an address"),
    (values.host_port, "localhost:0", "a port, 1 to 65535"),
    (values.server_url, "node.example:8002", "a URL such as http://"),
    (values.server_url, "ftp://node.example", "a URL such as http://"),
    (values.server_url, "http://", "a URL such as http://"),
    (values.server_url, "http://node.example:", "a URL such as http://"),
    (values.server_url, "http://node.example:0", "a URL such as http://"),
    (values.server_url, "http://node.example:99999", "a URL such as http://"),
    (values.server_url, "http://[::1", "a URL such as http://"),
    (values.server_url, "http://node.example/path", "without a path"),
    (values.server_url, "http://node.example?x", "nothing else in it"),
    (values.server_url, "http://node.example#x", "nothing else in it"),
    (values.server_url, "http://no de.example", "a host name or an address"),
    (values.admin_url, "localhost:99999", "a URL such as http://"),
    (values.admin_url, "foo://x", "a URL such as http://"),
    (values.host_port_of_url, "http://localhost/path", "without a path"),
    (values.duration, "10", "a duration such as"),
    (values.duration, "0s", "a duration such as"),
    (values.duration, "-1s", "a duration such as"),
    (values.duration, "1d", "a duration such as"),
    (values.duration, "nan", "a duration such as"),
    (values.duration, "1e9s", "a duration such as"),
    (values.duration, "999999h", "a duration such as"),
    (values.size, "1KB", "a size such as"),
    (values.size, "-1", "a size such as"),
    (values.size, "0", "a size such as"),
    (values.size, "inf", "a size such as"),
    (values.size, "1.5", "a size such as"),
    (values.size, "0.1KiB", "a size such as"),
    (values.number, "0", "greater than 0"),
    (values.number, "1s", "a number"),
    (values.network, "10.0.0.1/8", "a network such as"),
    (values.network, "here", "a network such as"),
    (values.address, "a b", "a host name or an address"),
    (values.one_of("a", "b"), "c", "one of a, b"),
    (values.field_value, "two words", "a host name"),
    (values.field_value, "a\r\nX: y", "a host name"),
    (values.field_value, "", "a host name"),
    (values.readable_file, "/nowhere/at/all", "No such file"),
    (values.readable_file, "/", "Is a directory"),
    (values.readable_file, "a\0b", "no usable name"),
]


@pytest.mark.parametrize("read", [values.server_url, values.admin_url, values.host_port_of_url])
@pytest.mark.parametrize(
    "text, shown",
    [
        ("http://me:secret@node.example", "http://...@node.example"),
        ("HTTPS://secret@node.example/secret@", "HTTPS://...@"),
        ("http://me:sec/ret@node.example:99999", "http://...@node.example:99999"),
        ("ftp://me:secret@node.example", "ftp://...@node.example"),
    ],
)
def test_no_message_about_a_url_shows_the_password_in_it(read: Reader[object], text: str, shown: str) -> None:
    with pytest.raises(ConfigError, match="a URL such as") as caught:
        read("--option", text)
    assert f"'{shown}'" in str(caught.value)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("read,text,value", GOOD)
def test_a_good_value_is_read(read: Reader[object], text: str, value: object) -> None:
    assert read("--option", text) == value


@pytest.mark.parametrize("read,text,expected", BAD)
def test_a_bad_value_is_refused_with_the_option_the_text_and_what_was_expected(
    read: Reader[object], text: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read("--option", text)
    assert caught.value.field == "--option"
    assert str(caught.value.value) in text
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "read",
    [
        values.port,
        values.count,
        values.bind_host,
        values.host_port,
        values.server_url,
        values.admin_url,
        values.host_port_of_url,
        values.duration,
        values.size,
        values.network,
        values.number,
        values.address,
        values.field_value,
    ],
)
@given(text=st.text(max_size=20) | st.text("0123456789.:/[]htpsmKiB@#?%-_", max_size=20))
def test_any_text_is_read_or_refused(read: Reader[object], text: str) -> None:
    try:
        read("--option", text)
    except ConfigError:
        pass


def test_nothing_is_no_duration_unless_it_is_asked_for() -> None:
    assert values.duration("--option", "0", zero=True) == 0
    assert values.duration("--option", "0s", zero=True) == 0


def test_a_size_within_bounds() -> None:
    assert values.size("--option", "64KiB", lowest=1024, highest=65536) == 65536
    with pytest.raises(ConfigError, match="1KiB to 64KiB"):
        values.size("--option", "65KiB", lowest=1024, highest=65536)


def test_a_file_that_can_be_read_only_once(tmp_path: Path) -> None:
    """As the shell makes one of ``<(command)``."""
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(ConfigError, match="a regular file, because a reload reads it again"):
            values.readable_file("--option", path)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as made:
        made.truncate(values.FILE_BYTES_MAX + 1)
    with pytest.raises(ConfigError, match="a file of at most 16MiB"):
        values.readable_file("--option", str(file))


def test_a_file_that_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("x")
    assert values.readable_file("--option", str(file)) == str(file)


@given(st.integers(1, 30 * 24 * 3600 * 1000))
def test_a_duration_is_written_as_it_is_read(milliseconds: int) -> None:
    seconds = values.duration("--option", f"{milliseconds}ms")
    assert values.duration("--option", values.duration_text(seconds)) == pytest.approx(seconds, rel=1e-9)


def test_a_duration_is_written_in_its_largest_unit() -> None:
    assert [values.duration_text(seconds) for seconds in (0, 0.005, 2.5, 10, 75, 60, 86_400)] == [
        "0", "5ms", "2500ms", "10s", "75s", "1m", "24h"
    ]  # fmt: skip


@given(st.integers(1, 10**12 - 1))
def test_a_size_is_written_as_it_is_read(size: int) -> None:
    assert values.size("--option", values.size_text(size)) == size
