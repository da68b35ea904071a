"""The files of the live page: what a browser may load of them, and what it need not load again."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from pico.node.page import page_routes
from pico.observability.admin import AdminApp

SOURCES = {
    file.name: file.read_text()
    for file in files("pico.node.page").iterdir()
    if file.name.endswith((".html", ".css", ".js", ".svg"))
}


def get(path: str, **fields: str) -> tuple[str, dict[str, str], bytes]:
    said: list[tuple[str, list[tuple[str, str]]]] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http"}
    environ |= {f"HTTP_{name.upper()}": value for name, value in fields.items()}
    body = b"".join(AdminApp(page_routes())(environ, lambda *head: said.append(head)))  # type: ignore[arg-type]
    status, pairs = said[0]
    return status, dict(pairs), body


def path_of(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"


@pytest.mark.parametrize("name", SOURCES)
def test_each_file_is_served_as_what_it_is(name: str) -> None:
    status, fields, body = get(path_of(name))
    assert (status, body.decode()) == ("200 OK", SOURCES[name])
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert fields["Content-Type"].startswith(kind[name.rpartition(".")[2]])
    assert fields["X-Content-Type-Options"] == "nosniff"


def test_a_browser_may_load_nothing_from_elsewhere_and_run_nothing_from_within() -> None:
    policy = get("/")[1]["Content-Security-Policy"]
    sources = dict(part.split(" ", 1) for part in policy.split("; "))
    assert sources["default-src"] == sources["frame-ancestors"] == sources["form-action"] == "'none'"
    assert set(sources.values()) == {"'none'", "'self'"}
    html = SOURCES["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]


@pytest.mark.parametrize("name", SOURCES)
def test_no_file_names_another_place(name: str) -> None:
    found = set(re.findall(r"(?:https?:)?//[a-z][^\s\"'`)]*", re.sub(r"(?m)(^|\s)//( .*)?$", "", SOURCES[name])))
    assert found <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith(".js")])
def test_nothing_becomes_markup(name: str) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", SOURCES[name])


def test_every_reference_is_served() -> None:
    html = SOURCES["index.html"]
    for address in re.findall(r"(?:href|src)=\"(page/[^\"]+)\"", html):
        assert get(f"/{address}")[0] == "200 OK"
    for name, source in SOURCES.items():
        for module in re.findall(r"from \"\./([^\"]+)\"", source):
            assert module in SOURCES, name


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_browser_has_is_not_sent_again(name: str) -> None:
    tag = get(path_of(name))[1]["ETag"]
    status, fields, body = get(path_of(name), if_none_match=f'W/"other", {tag}')
    assert (status, body, fields["ETag"]) == ("304 Not Modified", b"", tag)
    assert "Content-Length" not in fields
    assert get(path_of(name), if_none_match='"other"')[0] == "200 OK"
    assert fields["Cache-Control"] == "no-cache"
