"""Long lists as JSON, a page at a time and a piece at a time.

Responsible for: ``limit`` and ``after`` of a query, and for making the rows while they leave, so that ten thousand of
them keep nobody waiting. Refuses to know: what the rows are.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pico.observability.admin import JSON_TYPE, Answer, Refused, Request

__all__ = ["LIMIT_MAX", "Row", "listing", "no_such", "page_of"]

LIMIT_DEFAULT: Final = 1000
LIMIT_MAX: Final = 100_000

ROWS_AT_ONCE: Final = 16
"""Made without a break: a fifth of a millisecond."""

Row = dict[str, Any]


def page_of(
    request: Request,
    names: Sequence[str],
    row: Callable[[str], Row | None],
    *,
    order: Callable[[str], Any] | None = None,
) -> Answer:
    """The rows of the names that the query asks for: ``limit`` of them, those behind ``after`` in their order.

    A name whose row is None has gone while the others were made. ``order`` is that of the names, by default their own;
    it raises ``Refused`` for what can be no name.
    """
    limit = request.number("limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
    after = request.name("after")
    first = 0
    if after is not None:
        first = bisect_right(names, order(after) if order else after, key=order)
    wanted = names[first : first + limit]
    more = wanted[-1] if first + limit < len(names) else None
    rows = (made for name in wanted if (made := row(name)) is not None)
    return listing({"total": len(names), "next": more}, rows)


def listing(head: Mapping[str, Any], rows: Iterator[Row]) -> Answer:
    """One JSON object: the fields of ``head``, then the rows as ``items``."""
    return Answer(_pieces(head, rows), JSON_TYPE)


def _pieces(head: Mapping[str, Any], rows: Iterator[Row]) -> Iterator[bytes]:
    text = f'{json.dumps(dict(head))[:-1]}{", " if head else ""}"items": ['
    separator = ""
    while some := list(islice(rows, ROWS_AT_ONCE)):
        yield f"{text}{separator}{json.dumps(some)[1:-1]}".encode()
        text, separator = "", ", "
    yield f"{text}]}}\n".encode()


def no_such(what: str, name: str) -> Refused:
    """There is none of that name."""
    return Refused(404, f"unknown_{what}", f"{name[:64]}: there is no such {what} here")
