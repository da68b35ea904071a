"""What the tests of real processes share: programs that end with the test, and a service of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import Programs
from tests.system.service import Service


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def shared_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with Programs(tmp_path_factory.mktemp("programs")) as started:
        yield started


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as serving:
        yield serving
