"""The live page in a real browser: what an operator sees of a real cluster while things happen to it.

With ``PICO_SCREENSHOTS=DIRECTORY`` the pictures of the documentation are made, too: ``make screenshots``.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pico.observability.merge_patch import difference
from tests.system.browser import Browser, why_not
from tests.system.processes import HOST, Node, Programs, until
from tests.system.service import Service
from tests.system.terminal import frame_of, picture_of
from tests.system.test_cluster import cluster, joining

pytestmark = pytest.mark.timeout(400)

SEEN_S = 15.0
"""A second or two where nothing else runs, but for what the cluster has to find out first."""

PICTURES = os.environ.get("PICO_SCREENSHOTS", "")
PICTURE_BYTES_MAX = 200 * 1024

ROWS = """
    const rows = document.querySelectorAll('#' + arguments[0] + ' tbody tr');
    return [...rows].map(row => row.innerText.replace(/\\s+/g, ' ').trim());
"""


INJECTED = "return [document.querySelectorAll('main img, main script').length, window.hacked ?? null]"


@pytest.fixture(scope="module")
def chromium() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(chromium: None) -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def nodes(chromium: None, shared_programs: Programs) -> list[Node]:
    return cluster(shared_programs, 3, "--endpoint-wait=0")


@pytest.fixture(scope="module")
def web(nodes: list[Node], shared_programs: Programs, service: Service) -> str:
    """An endpoint that the first node has."""
    shared_programs.agent(nodes[0].upstream_url, "web", service.port).registered()
    return "web"


@pytest.fixture
def page(browser: Browser, nodes: list[Node]) -> Iterator[Browser]:
    """The page of the first node, heard; nothing has gone wrong in it at the end."""
    browser.resize(1600, 1000)
    browser.open("about:blank")
    browser.console(), browser.requested()
    opened(browser, nodes[0])
    yield browser
    assert browser.console() == []
    elsewhere = [url for url in browser.requested() if not url.startswith(f"{address(nodes[0])}/")]
    assert elsewhere == []


def address(node: Node) -> str:
    return f"http://{HOST}:{node.admin_port}"


def opened(browser: Browser, node: Node, view: str = "") -> None:
    browser.open(f"{address(node)}/{view}")
    browser.until("return document.getElementById('connection').dataset.state === 'live'")


def rows(browser: Browser, table: str) -> list[str]:
    found: list[str] = browser.run(ROWS, table)
    return found


def until_row(browser: Browser, table: str, pattern: str, within_s: float = SEEN_S) -> str:
    return until(
        lambda: next((row for row in rows(browser, table) if re.search(pattern, row)), None),
        f"{pattern!r} in {table}",
        within_s,
    )


def ask(node: Node, endpoint: str, path: str = "/hello", method: str = "GET") -> int:
    with closing(http.client.HTTPConnection(node.host, node.proxy_port, timeout=10)) as connection:
        connection.request(method, path, headers={"x-pico-endpoint": endpoint})
        response = connection.getresponse()
        response.read()
        return response.status


def focused(browser: Browser) -> str:
    """What has the focus: its ID or its text."""
    text: str = browser.run("const it = document.activeElement; return it.id || it.innerText.trim() || it.tagName")
    return text


def overflow(browser: Browser) -> int:
    """Pixels by which the page is wider than what is seen of it."""
    pixels: int = browser.run("return document.documentElement.scrollWidth - innerWidth")
    return pixels


class TestWhatIsSeen:
    def test_three_nodes(self, page: Browser, nodes: list[Node]) -> None:
        for number in (1, 2, 3):
            until_row(page, "nodes", rf"^node-{number} .*alive")
        until_row(page, "nodes", r"^node-2 .*open.* ms ")
        assert page.text("#verdict-title") == "All is well: all 3 nodes are alive"
        assert page.text("#node-id") == "node-1"

    def test_an_upstream_joins_and_leaves(
        self, page: Browser, nodes: list[Node], programs: Programs, service: Service
    ) -> None:
        page.run("window.sameDocument = true")
        agent = programs.agent(nodes[0].upstream_url, "newcomer", service.port).registered()
        until_row(page, "endpoints", r"^newcomer .*node-1")
        until_row(page, "upstreams", r"newcomer 127\.0\.0\.1 pico-agent/")
        assert re.search(r"joined: newcomer", page.text("#changes"))
        agent.stop()
        page.until("return !document.getElementById('upstreams').innerText.includes('newcomer')", within_s=SEEN_S)
        assert re.search(r"left: newcomer", page.text("#changes"))
        assert page.run("return window.sameDocument")

    def test_an_upstream_of_another_node(
        self, page: Browser, nodes: list[Node], programs: Programs, service: Service
    ) -> None:
        programs.agent(nodes[1].upstream_url, "distant", service.port).registered()
        until_row(page, "endpoints", r"^distant .*node-2")

    def test_traffic_and_errors(self, page: Browser, nodes: list[Node], web: str) -> None:
        for _ in range(20):
            assert ask(nodes[0], web) == 200
        assert ask(nodes[0], "nobody", "/lost?token=secret") == 502
        until_row(page, "endpoints", r"^web [1-9]")
        until_row(page, "errors", r"nobody 502 endpoint_not_found GET /lost")
        page.until(r"return /^[\d.]+ · [\d.]+\sms$/.test(document.querySelector('#tile-latency .figure').innerText)")
        said = page.run("return document.querySelector('#tile-rate svg').getAttribute('aria-label')")
        assert re.fullmatch(r"Requests, last 5 minutes: now [\d.<]+/s, at most [\d.]+", said)
        assert "secret" not in page.run("return document.documentElement.innerHTML")


def test_a_node_dies_and_comes_back(browser: Browser, chromium: None, programs: Programs, service: Service) -> None:
    nodes = cluster(programs, 3)
    opened(browser, nodes[0])
    until_row(browser, "nodes", r"^node-3 .*alive.*open")
    browser.run("window.sameDocument = true")
    nodes[2].send(signal.SIGKILL)
    until_row(browser, "nodes", r"^node-3 dead")
    browser.until("return document.getElementById('verdict').dataset.level === 'bad'")
    assert browser.text("#verdict-title") == "2 of 3 nodes are alive"
    assert "node-3 is dead" in browser.text("#verdict-reasons")
    assert "node-3 is dead" in browser.text("#changes")
    programs.node("--node-id=node-3", joining(nodes[0]), *nodes[2].same_ports)
    until_row(browser, "nodes", r"^node-3 .*alive")
    browser.until("return document.getElementById('verdict').dataset.level === 'good'")
    assert browser.run("return window.sameDocument")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_page_that_has_lost_its_node_says_since_when_and_finds_it_again(
    browser: Browser, chromium: None, programs: Programs, end: signal.Signals
) -> None:
    node = programs.node("--node-id=alone")
    opened(browser, node)
    node.send(end)
    said = browser.until(
        "const text = document.getElementById('connection').innerText; return /since/.test(text) && text"
    )
    assert re.fullmatch(r"Disconnected since \d\d:\d\d:\d\d, trying again", said)
    assert browser.text("#announcer") == said
    assert node.wait() == (0 if end == signal.SIGTERM else -end)
    programs.node("--node-id=alone", *node.same_ports)
    browser.until("return document.getElementById('connection').dataset.state === 'live'")
    assert browser.text("#announcer") == "Connected again"
    browser.open("about:blank")


class TestAnEndpoint:
    def test_its_latest_requests(self, page: Browser, nodes: list[Node], web: str) -> None:
        until_row(page, "endpoints", r"^web ")
        page.element("#endpoints a[href='#/endpoint/web']").click()
        page.until("return !document.getElementById('endpoint').hidden")
        assert focused(page) == "endpoint-title"
        assert ask(nodes[0], web, "/hello/first?token=secret") == 200
        assert ask(nodes[0], web, "/digest", "POST") == 200
        until_row(page, "requests", r"^\d\d:\d\d:\d\d GET /hello/first 200 [\d.]+ ms ok node-1-u\d+$")
        until_row(page, "requests", r" POST /digest 200 ")
        until_row(page, "places", r"^node-1 alive 1$")
        until_row(page, "tunnels", r"node-1-u\d+")
        assert page.text("#endpoint-state") == "reachable"
        assert "secret" not in page.run("return document.documentElement.innerHTML")

    def test_its_address_works_after_a_reload_and_the_way_back(
        self, page: Browser, nodes: list[Node], web: str
    ) -> None:
        until_row(page, "endpoints", r"^web ")
        page.element("#endpoints a[href='#/endpoint/web']").click()
        page.until("return document.getElementById('endpoint-state').innerText === 'reachable'")
        page.reload()
        page.until("return document.getElementById('endpoint-state').innerText === 'reachable'")
        assert page.text("#endpoint-title") == "web"
        page.back()
        page.until("return !document.getElementById('overview').hidden")
        until_row(page, "endpoints", r"^web ")

    @pytest.mark.parametrize("name", ["nobody", "%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D1%3E", "constructor"])
    def test_one_that_nobody_has(self, page: Browser, nodes: list[Node], name: str) -> None:
        opened(page, nodes[0], f"#/endpoint/{name}")
        page.until("return document.getElementById('endpoint-state').innerText === 'no node has it'")
        assert page.run(INJECTED) == [0, None]

    @pytest.mark.parametrize("name", ["%", "x" * 64, "a/b", ""])
    def test_an_address_that_names_none(self, page: Browser, nodes: list[Node], name: str) -> None:
        opened(page, nodes[0], f"#/endpoint/{name}")
        assert page.run("return document.getElementById('overview').hidden") is False


def test_what_strangers_say_is_text(page: Browser, nodes: list[Node], web: str) -> None:
    markup = "<img/src=x/onerror=window.hacked=1>"
    with registered(nodes[0], "stranger", f"{markup}<script>window.hacked=2</script>"):
        assert ask(nodes[0], web, f"/{markup}{'x' * 400}") == 200
        assert ask(nodes[0], "nobody", f"/{markup}{'x' * 400}") == 502
        until_row(page, "upstreams", r"stranger .*<img/src=x/onerror")
        until_row(page, "errors", r"<img/src=x/onerror")
        page.resize(400, 900)
        assert overflow(page) == 0
        opened(page, nodes[0], "#/endpoint/web")
        until_row(page, "requests", r"<img/src=x/onerror")
        assert overflow(page) == 0
    assert page.run(INJECTED) == [0, None]


@contextmanager
def registered(node: Node, endpoint: str, user_agent: str) -> Iterator[None]:
    """An upstream that says of itself whatever it wants to."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /pico/v1/listener/{endpoint} HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nUser-Agent: {user_agent}\r\n\r\n"
    )
    with closing(socket.create_connection((node.host, node.upstream_port), timeout=10)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        yield


def test_among_many_endpoints_the_busiest_are_shown_and_each_is_found(
    page: Browser, nodes: list[Node], programs: Programs, service: Service
) -> None:
    targets = [f"--endpoint=many-{number:03}={HOST}:{service.port}" for number in range(150)]
    programs.agent_of(f"--server={nodes[1].upstream_url}", *targets)
    page.until(
        "return /^busiest 100 of 1[5-9]\\d$/.test(document.getElementById('endpoints-count').textContent)",
        within_s=SEEN_S,
    )
    assert ask(nodes[0], "many-149") == 200
    until_row(page, "endpoints", r"^many-149 0\.1 ")
    page.element("#filter").type("MANY-14")
    page.until("return document.querySelectorAll('#endpoints tbody tr').length === 10", within_s=SEEN_S)
    assert re.fullmatch(r"10 that match, of 1[5-9]\d", page.text("#endpoints-count"))
    page.element("#filter").type("x")
    page.until("return document.querySelector('#endpoints .empty').innerText === 'No endpoint has that in its name.'")


def test_the_page_and_the_node_mean_the_same_by_a_difference(page: Browser) -> None:
    chance = random.Random(1)

    def value(depth: int) -> object:
        if depth == 0 or chance.random() < 0.3:
            return chance.choice([0, 1, 1.5, True, False, "", "a", [1, None], []])
        names = chance.sample(["a", "b", "7", "__proto__", "constructor"], chance.randrange(5))
        return {name: value(depth - 1) for name in names}

    pairs = [({"a": value(3), "__proto__": value(2)}, {"a": value(3), "b": value(2)}) for _ in range(300)]
    changes = [[json.dumps(before), json.dumps(difference(before, after))] for before, after in pairs]
    merged = page.run(
        "return import('/page/stream.js').then(({ merged }) => arguments[0].map("
        "  ([value, patch]) => JSON.stringify(merged(JSON.parse(value), JSON.parse(patch)))))",
        changes,
    )
    assert [json.loads(text) for text in merged] == [after for _, after in pairs]


class TestForEverybody:
    def test_with_the_keyboard_alone(self, page: Browser, web: str) -> None:
        until_row(page, "endpoints", r"^web ")
        page.press("tab")
        assert focused(page) == "skip"
        assert page.run("return document.getElementById('skip').getBoundingClientRect().top >= 0")
        page.press("enter")
        assert focused(page) == "main"
        seen = []
        while (now := focused(page)) != "web":
            seen.append(now)
            assert len(seen) < 60, seen
            page.press("tab")
            ring = page.run(
                "const it = getComputedStyle(document.activeElement); return [it.outlineStyle, it.outlineWidth]"
            )
            assert ring == ["solid", "2px"], focused(page)
        assert {"Node", "filter", "Requests/s"} <= set(seen)
        page.press("enter")
        page.until("return document.getElementById('endpoint-title').innerText === 'web'")
        assert focused(page) == "endpoint-title"
        page.press("shift+tab")
        assert focused(page) == "Overview"
        page.press("enter")
        page.until("return !document.getElementById('overview').hidden")
        assert focused(page) == "overview-title"

    def test_columns_are_sorted_by_their_heads(self, page: Browser, nodes: list[Node]) -> None:
        until_row(page, "nodes", r"^node-3 ")
        assert [row[:6] for row in rows(page, "nodes")] == ["node-1", "node-2", "node-3"]
        page.element("#nodes thead button").click()
        assert [row[:6] for row in rows(page, "nodes")] == ["node-3", "node-2", "node-1"]
        assert page.run("return document.querySelector('#nodes th').getAttribute('aria-sort')") == "descending"

    @pytest.mark.parametrize("width", [320, 400, 800, 1600])
    def test_at_any_width_nothing_is_beyond_the_edge(self, page: Browser, web: str, width: int) -> None:
        page.resize(width, 900)
        until_row(page, "endpoints", r"^web")
        assert overflow(page) == 0

    def test_tables_stay_tables_where_rows_are_shown_as_blocks(self, page: Browser, web: str) -> None:
        page.resize(400, 900)
        until_row(page, "endpoints", r"^web")
        tree = page.devtools("Accessibility.getFullAXTree")["nodes"]
        names = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
        for name in ("Nodes", "Endpoints"):
            assert ("table", name) in names
        roles = {role for role, _ in names}
        assert {"banner", "main", "contentinfo", "search", "row", "rowheader", "cell", "status", "log"} <= roles
        assert {name for role, name in names if role == "region"} >= {"Nodes", "Endpoints", "Gossip", "Recent errors"}

    def test_who_wants_no_motion_gets_none(self, page: Browser) -> None:
        moving = "return getComputedStyle(document.querySelector('.dot')).animationName"
        assert page.run(moving) == "breathe"
        page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        assert page.run(moving) == "none"
        page.devtools("Emulation.setEmulatedMedia", features=[])

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out_from_its_ground(self, page: Browser, scheme: str) -> None:
        page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colors = page.run(
            "const style = getComputedStyle(document.documentElement);"
            "return Object.fromEntries(arguments[0].map(name => [name, style.getPropertyValue('--' + name).trim()]))",
            ["ground", "surface", "raised", "ink", "quiet", "accent", "good", "warn", "bad", *SOFT],
        )
        for ground in ("ground", "surface", "raised"):
            for text in ("ink", "quiet", "accent", "warn", "bad"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for soft in SOFT:
            assert contrast(colors["ink"], colors[soft]) >= 4.5
        assert contrast(colors["bad"], colors["bad-soft"]) >= 4.5
        page.devtools("Emulation.setEmulatedMedia", features=[])


SOFT = ["good-soft", "warn-soft", "bad-soft"]


def contrast(one: str, other: str) -> float:
    """WCAG 2, of two colours as ``#rrggbb``."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# Pictures.

LOAD_S = 100.0
COLUMNS = 108  # of a terminal


@pytest.mark.skipif(not PICTURES, reason="pictures: set PICO_SCREENSHOTS to a directory")
def test_pictures_for_the_documentation(chromium: None, programs: Programs, service: Service) -> None:
    nodes = cluster(programs, 3, "--endpoint-wait=0")
    names = ["shop", "billing", "search", "orders-eu", "orders-us", "warehouse", "metrics", "customer-4711"]
    for number, name in enumerate(names):
        programs.agent(nodes[number % 3].upstream_url, name, service.port).registered()
    programs.agent(nodes[1].upstream_url, "shop", service.port).registered()
    with traffic(nodes, names):
        enough = time.monotonic() + LOAD_S
        until(lambda: time.monotonic() > enough, "some traffic", LOAD_S + 10)
        taken(nodes[0], "", "page-light.png", 1600, 1000, dark=False)
        taken(nodes[0], "", "page-dark-narrow.png", 400, 900, dark=True)
        taken(nodes[0], "#/endpoint/shop", "page-endpoint.png", 1600, 800, dark=False)
        drawn(nodes[0], "nodes", "status-nodes.svg")
        drawn(nodes[0], "endpoints", "status-endpoints.svg")


def taken(node: Node, view: str, name: str, width: int, height: int, *, dark: bool) -> None:
    with Browser(width=width, height=height, dark=dark) as browser:
        opened(browser, node, view)
        table = "requests" if view else "endpoints"
        browser.until("return document.querySelectorAll('#' + arguments[0] + ' tbody tr').length > 3", table)
        picture = browser.screenshot()
    assert len(picture) < PICTURE_BYTES_MAX
    Path(PICTURES).mkdir(parents=True, exist_ok=True)
    (Path(PICTURES) / name).write_bytes(picture)


def drawn(node: Node, what: str, name: str) -> None:
    """The terminal of somebody who watches."""
    words = ["status", what, "--watch", f"--admin={address(node)}"]
    frame = frame_of([sys.executable, "-m", "pico.cli.pico", *words], columns=COLUMNS, lines=16)
    (Path(PICTURES) / name).write_text(picture_of(f"pico status {what} --watch", frame, columns=COLUMNS))


@contextmanager
def traffic(nodes: list[Node], names: list[str]) -> Iterator[None]:
    """Some clients that ask now this, now that, and now and then for what is not there."""
    over = threading.Event()

    def client(seed: int) -> None:
        chance = random.Random(seed)
        while not over.wait(chance.expovariate(12.0)):
            name = "nobody" if chance.random() < 0.004 else names[min(int(chance.expovariate(0.6)), len(names) - 1)]
            ask(
                chance.choice([nodes[0], nodes[0], *nodes]),
                name,
                chance.choice(["/hello", "/fields", "/cart", "/items/7"]),
            )

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for one in clients:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in clients:
            one.join()
