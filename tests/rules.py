"""The decorator that says which numbered rules of ``spec/`` a test covers.

The scanner in ``tests/traceability.py`` reads the source and does not import it, so a rule is named by a plain string.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

_RULE = re.compile(r"[A-Z]{2,}-[1-9][0-9]*\Z")

Covering = TypeVar("Covering", bound=Callable[..., object])


def covers(*rules: str) -> Callable[[Covering], Covering]:
    """Record on a test function or test class the rules it covers, and give it back otherwise unchanged."""
    if not rules:
        raise ValueError("covers() names at least one rule")
    for rule in rules:
        if not _RULE.match(rule):
            raise ValueError(f"{rule!r} is not the name of a rule")

    def record(test: Covering) -> Covering:
        earlier: tuple[str, ...] = getattr(test, "covered_rules", ())
        test.covered_rules = rules + earlier  # type: ignore[attr-defined]
        return test

    return record
