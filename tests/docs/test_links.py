"""Every link from a page into the repository leads somewhere, in the repository's viewer as on the site."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, Link, anchors_of, links_of, pages

LINKS = [link for page in pages() for link in links_of(page)]
OUTSIDE = ("http://", "https://", "mailto:")


def fault_of(link: Link) -> str:
    """What is wrong with a link; empty when nothing is."""
    where, _, anchor = link.target.partition("#")
    target = (link.page.parent / where).resolve() if where else link.page
    if not target.is_relative_to(ROOT):
        return f"{link}: leads out of the repository"
    if not target.exists():
        return f"{link}: there is no {where}"
    if anchor and (target.suffix != ".md" or anchor not in anchors_of(target)):
        return f"{link}: there is no heading for #{anchor}"
    return ""


def test_there_are_links() -> None:
    assert len(LINKS) > 10


@pytest.mark.parametrize("link", [link for link in LINKS if not link.target.startswith(OUTSIDE)], ids=str)
def test_a_link_into_the_repository_leads_somewhere(link: Link) -> None:
    assert not fault_of(link)


def test_a_link_that_leads_nowhere_is_found() -> None:
    readme = ROOT / "README.md"
    assert "there is no docs/nothing.md" in fault_of(Link(readme, 1, "docs/nothing.md"))
    assert "no heading" in fault_of(Link(readme, 1, "docs/cluster.md#nothing"))
    assert "out of the repository" in fault_of(Link(readme, 1, "../else.md"))
    assert not fault_of(Link(readme, 1, "docs/cluster.md#what-happens-when"))
