"""The Markdown of the repository as tests see it: pages, links, anchors, fenced blocks.

Responsible for: finding each of these in the text of a page, with its line. Refuses to know: what a page should say,
and what a block does when it is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "Block", "Link", "anchors_of", "blocks_of", "links_of", "pages"]

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(`{3,})(.*)$")
_COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$", re.DOTALL)
_HEADING = re.compile(r"^(#{1,6}) (.+?)\s*$")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
_TARGET = re.compile(r"^\(([a-z0-9-]+)\)=$")
_CODE = re.compile(r"`[^`]*`")


class Block(NamedTuple):
    """A fenced block, with the HTML comments that stand between it and the block before."""

    page: Path
    line: int
    language: str
    text: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        where = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{where}:{self.line}"


class Link(NamedTuple):
    """What a page points to."""

    page: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} -> {self.target}"


def pages() -> list[Path]:
    """Every page that a reader finds: at the top, in ``docs``, in ``spec`` and in ``deploy``."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("spec/*.md"), *ROOT.glob("deploy/**/*.md")]
    return sorted(found)


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A fence that is not closed fails."""
    blocks: list[Block] = []
    notes: list[str] = []
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    comment: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence and fence[1] == opened[1] and not fence[2]:
                blocks.append(Block(page, opened[0], opened[2], "\n".join(inside), tuple(notes)))
                opened, inside, notes = None, [], []
            else:
                inside.append(line)
        elif fence:
            opened = (number, fence[1], fence[2].strip())
        elif comment or line.startswith("<!--"):
            comment.append(line.strip())
            if line.rstrip().endswith("-->"):
                match = _COMMENT.match(" ".join(comment))
                notes += [match[1]] if match else []
                comment = []
    assert opened is None, f"{page}:{opened and opened[0]}: this fence is not closed"
    return blocks


def links_of(page: Path) -> Iterator[Link]:
    """The links in the prose of a page."""
    for number, line in _prose(page):
        for match in _LINK.finditer(_CODE.sub("", line)):
            yield Link(page, number, match[1])


def anchors_of(page: Path) -> set[str]:
    """What a link may name behind ``#``: the headings as the repository's viewer names them, and explicit targets."""
    anchors: set[str] = set()
    for _, line in _prose(page):
        if target := _TARGET.match(line):
            anchors.add(target[1])
        if heading := _HEADING.match(line):
            name = _slug(heading[2])
            anchors.add(next(one for one in _numbered(name) if one not in anchors))
    return anchors


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 0
    while True:
        number += 1
        yield f"{name}-{number}"


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    fence = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            fence = "" if match and match[1] == fence and not match[2] else fence
        elif match:
            fence = match[1]
        else:
            yield number, line
