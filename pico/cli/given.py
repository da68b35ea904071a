"""What a source says of a setting, as it was written.

Responsible for: keeping with each text what whoever wrote it calls the place. Refuses to know: which sources there are
and which of them counts (``pico.cli.sources``), and what a text means.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Given", "Text"]


class Text(NamedTuple):
    """One value as it was written, and what a complaint about it begins with."""

    text: str
    where: str


class Given(NamedTuple):
    """What one source says of one setting. ``split``: a list may stand in one text, between commas."""

    texts: tuple[Text, ...]
    where: str
    source: str
    split: bool = True
