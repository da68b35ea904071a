"""Which series and labels an expression of PromQL names.

Responsible for: as much of the grammar as that takes. Refuses to know: what the expression means; ``promtool`` checks
that where it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["selectors"]

_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:$])([A-Za-z_:][\w:]*+)\s*+(\{[^}]*\})?(?!\()")
_MADE = re.compile(r'(?<=[)\]}\w]),\s*"(\w+)"\s*,\s*"[^"]*"\s*,\s*"\w+"\s*,\s*"[^"]*"\s*\)')  # by label_replace
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHER = re.compile(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan", "by", "without", "on", "ignoring"})


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each series that is named, with the labels that are asked of it; grouping asks them of every series.

    A label that the expression makes itself is asked of none.
    """
    made = set(_MADE.findall(expression))
    bare = _STRING.sub('""', expression)
    grouped = {label.strip() for _, labels in _GROUPING.findall(bare) for label in labels.split(",") if label.strip()}
    bare = _GROUPING.sub(" ", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)  # ranges
    for name, braces in _SELECTOR.findall(bare):
        if name not in _WORDS:
            yield name, set(_MATCHER.findall(braces)) | (grouped - made)
