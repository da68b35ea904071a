"""The live page: its files, as the admin door serves them.

Responsible for: reading them from the package, their types, caching and the policy that lets a browser load nothing
else. Refuses to know: what they show (``pico.node.report``) and how that comes (``pico.node.live``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from typing import Final

from pico.observability.admin import Answer, Request, Route, reads

__all__ = ["page_routes"]

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

FIELDS: Final = (
    ("Content-Security-Policy", POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),  # asked for each time, and not sent again while it is the same
)


def page_routes() -> tuple[Route, ...]:
    """The page at ``/`` and what it loads beneath ``/page/``."""
    return tuple(_routes())


def _routes() -> Iterator[Route]:
    for file in sorted(files(__package__).iterdir(), key=lambda one: one.name):
        content_type = TYPES.get(file.name[file.name.rfind(".") :])
        if content_type is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            body = file.read_bytes()
            yield reads(path, partial(_answer, body, content_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"'))


def _answer(body: bytes, content_type: str, tag: str, request: Request) -> Answer:
    fields = (*FIELDS, ("ETag", tag))
    if tag in request.fields.get("if-none-match", ""):
        return Answer(b"", content_type, 304, fields)
    return Answer(body, content_type, 200, fields)
