"""What the admin door answers, for a node and for an agent alike.

Responsible for: the table of routes as a WSGI application, and what a handler gets and gives. Refuses to know: what is
told and done at any path, who may act (``pico.observability.admin_guard``), and the server around it
(``pico.observability.admin_server``).

A handler runs in the greenlet of its connection. It may wait, but not compute for long: what is large leaves in pieces,
and the server lets others have their turn after each.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from pico.errors import PicoError
from pico.observability.admin_guard import objection

__all__ = [
    "JSON_TYPE",
    "AdminApp",
    "Answer",
    "Handler",
    "LastingBody",
    "Refused",
    "Request",
    "Route",
    "Stream",
    "acts",
    "json_answer",
    "reads",
]

BODY_BYTES_MAX: Final = 16 * 1024
"""Of the body of an action."""

QUERY_FIELDS_MAX: Final = 16

NAME_CHARS_MAX: Final = 100
"""Of an ID in a query."""

STREAMS_MAX: Final = 16
"""Answers without an end at one time; few of the door's connections, so that a probe always finds one."""

JSON_TYPE: Final = "application/json"

Fields = tuple[tuple[str, str], ...]
StartResponse = Callable[[str, list[tuple[str, str]]], object]

_log = logging.getLogger("pico.admin")
_absolute_form = re.compile(r"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL).fullmatch


class Refused(PicoError):
    """A request gets this error for its answer: a status, a code for machines, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, *, fields: Fields = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = fields


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as a handler gets it."""

    method: str
    path: str
    names: Mapping[str, str] = field(default_factory=dict)
    """What the path has where the route has ``{name}``."""
    query: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """Header fields, their names in lower case."""
    remote: str = ""
    """The address of whoever asks."""
    body: bytes = b""
    """Of an action only."""
    taken: tuple[str, ...] = ()
    """What the query may have besides, and whoever let the request through has taken out of it."""

    def allow(self, *names: str) -> None:
        """Raise ``Refused`` when the query has another field than these."""
        for name in self.query:
            if name not in names:
                allowed = (*names, *self.taken)
                known = f"one of {', '.join(allowed)}" if allowed else "no query"
                raise Refused(400, "bad_query", f"{name}: unknown; expected {known}")

    def name(self, name: str) -> str | None:
        """An ID in the query, None when it is not there; raises ``Refused`` for what is too long to be one."""
        text = self.query.get(name)
        if text is not None and len(text) > NAME_CHARS_MAX:
            raise Refused(400, "bad_query", f"{name}: expected at most {NAME_CHARS_MAX} characters")
        return text

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number of the query; raises ``Refused`` when it is none, or out of bounds."""
        text = self.query.get(name)
        if text is None:
            return default
        if text.isascii() and text.isdecimal() and len(text) <= 20 and least <= int(text) <= most:
            return int(text)
        raise Refused(
            400, "bad_query", f"{name}: {text[:40]!r} is not usable: expected a number from {least} to {most}"
        )

    def arguments(self, *names: str) -> dict[str, Any]:
        """What the body says: a JSON object with no other names than these, or nothing; raises ``Refused``."""
        try:
            said = json.loads(self.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, "bad_body", f"the body is not JSON: {error}") from error
        if not isinstance(said, dict):
            raise Refused(400, "bad_body", "the body is not a JSON object")
        for name in said:
            if name not in names:
                known = f"one of {', '.join(names)}" if names else "nothing"
                raise Refused(400, "bad_body", f"{name[:40]}: unknown; expected {known}")
        return said


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with an end. A body in pieces is made while it leaves, and others have their turn in between."""

    body: bytes | Iterator[bytes] = b""
    content_type: str = JSON_TYPE
    status: int = 200
    fields: Fields = ()
    """More header fields; one of these replaces that of the same name which every answer has."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer without an end, such as server-sent events.

    Each piece leaves at once. When the client has gone or the door closes, ``GreenletExit`` is raised where ``pieces``
    waits, and it is closed; so what it has begun it gives back in a ``finally``.
    """

    pieces: Iterator[bytes]
    content_type: str
    fields: Fields = ()


Handler = Callable[[Request], "Answer | Stream"]


@dataclass(frozen=True, slots=True)
class Route:
    """What is answered at a path; ``{name}`` stands for one segment of it."""

    method: str
    path: str
    handle: Handler


def reads(path: str, handle: Handler) -> Route:
    """GET and HEAD: tells something and changes nothing."""
    return Route("GET", path, handle)


def acts(path: str, handle: Handler) -> Route:
    """POST: changes something, so only those get through whom the guard lets."""
    return Route("POST", path, handle)


def json_answer(value: object, status: int = 200, fields: Fields = ()) -> Answer:
    """One value, rendered at once."""
    return Answer(json.dumps(value).encode() + b"\n", JSON_TYPE, status, fields)


class LastingBody:
    """The pieces of a ``Stream`` on their way to the server, which sends each at once and waits for the next."""

    def __init__(self, pieces: Iterator[bytes], ended: Callable[[], None]) -> None:
        self._pieces = pieces
        self._ended = ended

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """Called once, whatever the end."""
        self._ended()
        _close(self._pieces)


class AdminApp:
    """The WSGI application."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._patterns: list[tuple[list[str], dict[str, Handler]]] = []
        self.streams = 0
        """Answers without an end that are on their way."""
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        if "{" not in route.path:
            handlers = self._exact.setdefault(route.path, {})
        else:
            parts = route.path.split("/")
            handlers = next((known for pattern, known in self._patterns if pattern == parts), {})
            if not handlers:
                self._patterns.append((parts, handlers))
        assert route.method not in handlers, f"{route.method} {route.path} is there already"
        handlers[route.method] = route.handle

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        has_body = "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
        try:
            handle, request = self._find(environ)
            if request.method == "POST":
                request = _with_body(request, environ)
                has_body = False
            answer = _handled(handle, request)
        except Refused as refused:
            answer = _error(refused)
        return self._begin(answer, environ["REQUEST_METHOD"], start_response, close=has_body)

    def read(self, target: str) -> Answer:
        """What a GET of that path and query is answered, by whatever way it came here."""
        path, _, query = target.partition("?")
        try:
            handlers, names = self._at(unquote(path))
            if "GET" not in handlers:
                raise Refused(405, "method_not_allowed", "this is not to be read")
            answer = _handled(handlers["GET"], Request("GET", unquote(path), names, _query_of(query)))
        except Refused as refused:
            return _error(refused)
        assert isinstance(answer, Answer), "what has no end is not asked for in this way"
        return answer

    def _find(self, environ: Mapping[str, Any]) -> tuple[Handler, Request]:
        path, fields = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"), _fields_of(environ)
        if absolute := _absolute_form(path):  # as to a proxy: its authority counts in place of Host
            fields["host"], path = absolute[1], absolute[2] or "/"
        handlers, names = self._at(path)
        method = environ["REQUEST_METHOD"]
        handle = handlers.get("GET" if method == "HEAD" else method)
        if handle is None:
            allowed = ", ".join("GET, HEAD" if one == "GET" else one for one in sorted(handlers))
            raise Refused(405, "method_not_allowed", f"expected {allowed}", fields=(("Allow", allowed),))
        query = _query_of(environ.get("QUERY_STRING", ""))
        request = Request(method, path, names, query, fields, environ["REMOTE_ADDR"])
        if method == "POST":
            refusal = objection(request.remote, request.fields, environ["wsgi.url_scheme"])
            if refusal is not None:
                raise Refused(403, *refusal)
            request.allow()  # what is wanted stands in the body: a query is a mistake, such as node=...
        return handle, request

    def _at(self, path: str) -> tuple[dict[str, Handler], dict[str, str]]:
        handlers = self._exact.get(path)
        if handlers is not None:
            return handlers, {}
        parts = path.split("/")
        for pattern, known in self._patterns:
            names = _matched(pattern, parts)
            if names is not None:
                return known, names
        paths = sorted([*self._exact, *("/".join(pattern) for pattern, _ in self._patterns)])
        raise Refused(404, "not_found", f"expected one of {', '.join(paths)}")

    def _begin(
        self, answer: Answer | Stream, method: str, start_response: StartResponse, *, close: bool
    ) -> Iterable[bytes]:
        if isinstance(answer, Stream) and method != "HEAD" and self.streams >= STREAMS_MAX:
            _close(answer.pieces)
            answer = _error(Refused(503, "too_many_streams", f"{self.streams} are open; try again later"))
        body = answer.pieces if isinstance(answer, Stream) else answer.body
        status = HTTPStatus(200 if isinstance(answer, Stream) else answer.status)
        fields = {
            "Content-Type": answer.content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **dict(answer.fields),
        }
        if isinstance(body, bytes) and status != HTTPStatus.NOT_MODIFIED:
            fields["Content-Length"] = str(len(body))
        if close:
            fields["Connection"] = "close"  # the body is nobody's, so what follows it is not looked for
        start_response(f"{status.value} {status.phrase}", list(fields.items()))
        if method == "HEAD":
            _close(body)
            return []
        if isinstance(answer, Stream):
            self.streams += 1
            return LastingBody(answer.pieces, self._stream_ended)
        return [body] if isinstance(body, bytes) else body

    def _stream_ended(self) -> None:
        self.streams -= 1


def _handled(handle: Handler, request: Request) -> Answer | Stream:
    try:
        return handle(request)
    except Refused:
        raise
    except Exception as error:
        _log.exception("the answer to %s %s failed", request.method, request.path)
        raise Refused(500, "internal", "the log has more") from error


def _with_body(request: Request, environ: Mapping[str, Any]) -> Request:
    """Blocks until the body has come; the server has a limit for that."""
    fields = (("Connection", "close"),)
    try:
        body = environ["wsgi.input"].read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(400, "bad_body", "the body is not whole", fields=fields) from error
    if len(body) > BODY_BYTES_MAX:
        raise Refused(413, "body_too_large", f"expected at most {BODY_BYTES_MAX} bytes", fields=fields)
    return replace(request, body=body)


def _query_of(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise Refused(400, "bad_query", f"expected at most {QUERY_FIELDS_MAX} fields") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        raise Refused(400, "bad_query", "a field stands twice")
    return query


def _fields_of(environ: Mapping[str, Any]) -> dict[str, str]:
    fields = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    if "CONTENT_TYPE" in environ:
        fields["content-type"] = environ["CONTENT_TYPE"]
    return fields


def _matched(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    names = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and part:
            names[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return names


def _error(refused: Refused) -> Answer:
    return json_answer({"error": {"code": refused.code, "message": str(refused)}}, refused.status, refused.fields)


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
