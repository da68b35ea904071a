"""Bodies far larger than what node and agent may hold: compared by checksum, with the peak of memory of both.

The length is 256 MiB here; the full one is run by
``PICO_SYSTEM_BYTES=1073741824 .venv/bin/python -m pytest -s tests/system/test_large.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import CURL, Agent, Node, Programs, curl
from tests.system.service import Service

BYTES = int(os.environ.get("PICO_SYSTEM_BYTES", "268435456"))
RSS_BYTES_MAX = 150 * 1000 * 1000
LONG = ["--max-time", "600", "-H", "x-pico-endpoint: large"]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file in which no two blocks are the same."""
    path = tmp_path_factory.mktemp("body") / "body"
    block = os.urandom(1024 * 1024)
    with path.open("wb") as file:
        for number in range(BYTES // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
        file.write(block[: BYTES - file.tell()])
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def checksum(body: Path) -> str:
    with body.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def agent(shared_programs: Programs, node: Node, service: Service) -> Agent:
    return shared_programs.agent(node.upstream_url, "large", service.port).registered()


@pytest.fixture(scope="module")
def node(shared_programs: Programs) -> Node:
    return shared_programs.node()


def assert_small(what: str, began: float, node: Node, agent: Agent) -> None:
    peaks = {program.name.split("-")[0]: program.peak_rss_bytes() for program in (node, agent)}
    print(f"{what} of {BYTES} bytes: {time.monotonic() - began:.1f} s, peak RSS", end="")
    print("".join(f", {name} {peak / 1e6:.1f} MB" for name, peak in peaks.items()))
    assert max(peaks.values()) < RSS_BYTES_MAX, peaks


def test_a_download_arrives_whole_in_little_memory(
    node: Node, agent: Agent, service: Service, body: Path, checksum: str
) -> None:
    service.serve_file(body)
    began = time.monotonic()
    command = [*CURL, "--fail", *LONG, f"{node.url}/file"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as downloading:
        assert downloading.stdout is not None
        summed = subprocess.run(["sha256sum"], stdin=downloading.stdout, capture_output=True, timeout=600, text=True)
    assert downloading.returncode == 0
    assert summed.stdout.split()[0] == checksum
    assert_small("download", began, node, agent)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_arrives_whole_in_little_memory(
    node: Node, agent: Agent, body: Path, checksum: str, framing: str
) -> None:
    chunked = ["-H", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    began = time.monotonic()
    command = [*CURL, "--fail", *LONG, *chunked, "-T", str(body), f"{node.url}/digest"]
    done = subprocess.run(command, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sha256": checksum, "size": BYTES}
    assert_small(f"upload ({framing})", began, node, agent)


def test_a_client_that_takes_nothing_costs_a_window_and_no_more(
    node: Node, agent: Agent, service: Service, body: Path
) -> None:
    service.serve_file(body)
    began = time.monotonic()
    slow = subprocess.Popen([*CURL, *LONG, f"{node.url}/file"], stdout=subprocess.PIPE)
    try:
        assert slow.stdout is not None
        slow.stdout.read(1024)  # the response is on its way, and its reader stops here
        for _ in range(20):
            assert curl("--fail", "-H", "x-pico-endpoint: large", f"{node.url}/hello").stdout == b"hello\n"
        assert_small("a stalled download", began, node, agent)
    finally:
        slow.kill()
        slow.communicate(timeout=10)
