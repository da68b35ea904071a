"""The site is built without a warning and asks nobody else for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

BUILD_S = 100
NOT_ON_THE_SITE = {"README.md"}  # it is the front page of the repository; docs/index.md is that of the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, as ``make docs`` builds it."""
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        *options_of_make(),
        "-d",
        str(target / "trees"),
        ".",
        str(target / "html"),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_S)
    assert built.returncode == 0, built.stdout + built.stderr
    assert not built.stderr
    return target / "html"


def options_of_make() -> list[str]:
    line = re.search(
        r"sphinx-build (.+) -d build/doctrees \. build/docs$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert line
    return line[1].split()


def test_a_warning_is_an_error() -> None:
    assert {"-W", "--keep-going", "-n"} <= set(options_of_make())


def test_every_page_is_there(site: Path) -> None:
    expected = {page.relative_to(ROOT).with_suffix(".html") for page in pages()} - {Path("README.html")}
    assert not {str(page) for page in expected if not (site / page).is_file()}


@pytest.mark.parametrize(
    "page", sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "index.md"}), ids=lambda page: page.name
)
def test_a_page_says_who_it_is_for(page: Path) -> None:
    first = re.search(r"^# .+\n\n(?:<!-- .* -->\n\n)?(.+)", page.read_text())
    assert first
    assert first[1].startswith("For ")


def test_the_front_page_is_found_at_the_root(site: Path) -> None:
    found = re.search(r"url=(\S+)\"", (site / "index.html").read_text())
    assert found
    assert (site / found[1]).is_file()


def test_the_site_asks_nobody_else(site: Path) -> None:
    """No script, style, image or font comes from another host; a link for a person may lead elsewhere."""
    asked = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*|<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]*"""
    )
    styles = re.compile(r"""(?:url\(|@import\s)\s*["']?(?:https?:)?//[^)"';]*""")
    found = [f"{path.name}: {match[0]}" for path in site.rglob("*.html") for match in asked.finditer(path.read_text())]
    found += [f"{path.name}: {match[0]}" for path in site.rglob("*.css") for match in styles.finditer(path.read_text())]
    assert not found


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    for name in ("docs", "spec"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "pico").mkdir()
    shutil.copy(ROOT / "pico" / "__init__.py", tmp_path / "pico")
    with (tmp_path / "docs" / "cluster.md").open("a") as page:
        page.write("\n[nowhere](nothing.md#at-all)\n")
    command = [sys.executable, "-m", "sphinx", *options_of_make(), "-d", str(tmp_path / "t"), ".", str(tmp_path / "h")]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=BUILD_S)
    assert built.returncode != 0
    assert "nothing.md" in built.stderr
