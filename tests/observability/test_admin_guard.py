"""Who may act at the admin door."""

from __future__ import annotations

import pytest

from pico.observability.admin_guard import objection

ALLOWED = {"host": "127.0.0.1:8001", "content-type": "application/json"}


def code(remote: str = "127.0.0.1", **fields: str | None) -> str | None:
    said = {**ALLOWED, **{name.replace("_", "-"): value for name, value in fields.items()}}
    refusal = objection(remote, {name: value for name, value in said.items() if value is not None}, "http")
    return None if refusal is None else refusal[0]


@pytest.mark.parametrize("remote", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may(remote: str) -> None:
    assert code(remote) is None


@pytest.mark.parametrize("remote", ["10.0.0.1", "192.0.2.1", "::ffff:10.0.0.1", "fe80::1", "0.0.0.0", "", "localhost"])
def test_another_machine_may_not(remote: str) -> None:
    assert code(remote) == "not_loopback"


@pytest.mark.parametrize("name", ["x_forwarded_for", "x_forwarded_host", "x_real_ip", "forwarded", "via"])
def test_a_proxy_on_this_machine_speaks_for_others(name: str) -> None:
    assert code(**{name: "127.0.0.1"}) == "not_loopback"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1", "[::1]:8001", "[::1]"])
def test_the_host_is_this_machine_by_any_name(host: str) -> None:
    assert code(host=host) is None


@pytest.mark.parametrize("host", [None, "", "evil.example:8001", "10.0.0.1", "127.0.0.1.evil.example", "::1"])
def test_a_page_whose_name_leads_here_may_not(host: str | None) -> None:
    assert code(host=host) == "foreign_host"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "nonsense"])
def test_a_page_of_another_site_may_not(site: str) -> None:
    assert code(sec_fetch_site=site) == "cross_site"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_may(site: str) -> None:
    assert code(sec_fetch_site=site, origin="http://127.0.0.1:8001") is None


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8001", "http://127.0.0.1:80", ""])
def test_another_origin_may_not(origin: str) -> None:
    assert code(origin=origin) == "cross_site"


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_can_send_is_not_an_action(kind: str | None) -> None:
    assert code(content_type=kind) == "not_json"


def test_json_may_say_its_character_set() -> None:
    assert code(content_type="Application/JSON; charset=utf-8") is None
