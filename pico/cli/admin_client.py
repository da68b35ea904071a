"""Asking the admin door of a node.

Responsible for: one request and its answer, and for one clear line when there is none. Refuses to know: what is asked.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import IncompleteRead
from socket import gaierror
from types import TracebackType
from typing import Any, Final

import requests
from requests.exceptions import RequestException, Timeout

from pico.cli.command_line import UsageError
from pico.cli.settings import ADMIN_CA_VARIABLE, ADMIN_VARIABLE
from pico.cli.tables import printable
from pico.cli.values import admin_url
from pico.errors import ConfigError, PicoError
from pico.protocol.tunnel import LISTENER_PATH, PROXY_CODES

__all__ = ["DEFAULT_URL", "AdminClient", "NoAnswer", "understanding"]

DEFAULT_URL: Final = "http://127.0.0.1:8001"
ANSWER_S: Final = 15.0
"""Longer than one node waits for another that it asks."""

SPEAKS_HTTPS: Final = "This port speaks HTTPS"
"""What a door with a certificate answers to plain HTTP."""

WRONG_WORDS: Final = frozenset(("bad_query", "bad_body"))
"""What a node answers to values that it does not take: they come from the command line."""

KNOWN_PATHS: Final = "expected one of "
"""What a door answers to a path that it has not, before those that it has."""

A_NODES_PATH: Final = "/status/nodes"

ADMIN_PORT: Final = "its admin port is 8001 by default"

NOT_A_NODE: Final = "what answers there is no node, or one of another version"


class NoAnswer(PicoError):
    """The node has not answered, or has refused; says why."""


class AdminClient:
    """The admin door at a URL; to be closed. ``ca_file`` says who vouches for it, else the system's authorities do.

    Without a URL or a file the environment's count. Without a scheme it is http. Raises ``ConfigError`` for a URL or a
    file that is not usable.
    """

    def __init__(self, url: str | None, ca_file: str | None = None) -> None:
        environments = os.environ.get(ADMIN_VARIABLE)
        named = ADMIN_VARIABLE if environments and not url else "--admin"
        given = url or environments or DEFAULT_URL
        self.url = admin_url(named, given)
        if ca_file:
            if not self.url.startswith("https:"):
                raise ConfigError(named, given, "an https URL, because --ca-file is given")
            _check_authorities("--ca-file", ca_file)
        elif self.url.startswith("https:") and (ca_file := os.environ.get(ADMIN_CA_VARIABLE)):
            _check_authorities(ADMIN_CA_VARIABLE, ca_file)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file or True

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    def read(self, path: str, query: dict[str, str]) -> Any:
        """What stands at that path; raises ``NoAnswer``, and ``UsageError`` for words that the node does not take."""
        return self._ask("GET", path, params=query)

    def act(self, path: str, body: dict[str, Any]) -> Any:
        """Have the node do something; raises ``NoAnswer``, and ``UsageError`` for words that it does not take."""
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **settings: Any) -> Any:
        url = self.url + path
        try:
            response = self._session.request(method, url, timeout=ANSWER_S, allow_redirects=False, **settings)
        except (RequestException, ValueError) as error:
            raise NoAnswer(f"no answer from {url}: {_reason(error)}") from error
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"no answer from {url}: {_what_else(response)}") from error
        if not response.ok:
            raise _refusal(url, response.status_code, answer)
        if not isinstance(answer, dict):
            raise NoAnswer(f"no answer from {url}: {NOT_A_NODE}")
        return answer


@contextmanager
def understanding() -> Iterator[None]:
    """What an answer does not have within is no fault of ours: raises ``NoAnswer``."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise NoAnswer(f"no answer that can be read: {NOT_A_NODE}") from error


def _refusal(url: str, status: int, answer: Any) -> PicoError:
    said = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(said, dict) or "message" not in said:
        return NoAnswer(f"no answer from {url}: {status}")
    code, message = printable(said.get("code")), printable(said["message"])
    if code in PROXY_CODES:
        return NoAnswer(f"no answer from {url}: this is a node's port for clients; {ADMIN_PORT}")
    if code == "not_found" and LISTENER_PATH in message:
        return NoAnswer(f"no answer from {url}: this is a node's port for agents; {ADMIN_PORT}")
    if code in WRONG_WORDS:
        return UsageError(message)
    if code == "not_found" and message.startswith(KNOWN_PATHS) and A_NODES_PATH not in message:
        have = message.removeprefix(KNOWN_PATHS)
        return NoAnswer(f"no answer from {url}: this is no node's admin port but perhaps an agent's; it has {have}")
    return NoAnswer(f"{message} ({status} {code})")


def _what_else(response: requests.Response) -> str:
    """What an answer is that is not JSON."""
    if response.status_code == 400 and response.reason == SPEAKS_HTTPS:
        return "this port speaks HTTPS: write https://"
    return f"{response.status_code}, and not JSON"


def _check_authorities(named: str, ca_file: str) -> None:
    from pico.transport.certificates import client_context  # with gevent, which nobody pays for who has no such file

    try:
        client_context(ca_file)
    except ConfigError as error:
        raise ConfigError(named, error.value, error.expected) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Timeout):
        return f"no answer within {ANSWER_S:g} s"
    origin = _origin(error)
    if isinstance(origin, ssl.SSLError):
        from pico.transport.tls import tls_reason  # likewise

        return f"TLS failed: {tls_reason(origin)}"
    if isinstance(origin, (gaierror, UnicodeError)):
        return "the name leads nowhere"
    if isinstance(origin, IncompleteRead):
        return "the connection was lost"
    if isinstance(origin, OSError):
        return (origin.strerror or "the connection was lost").lower()
    return "what answers there does not speak HTTP"


def _origin(error: BaseException) -> BaseException:
    """What the libraries came upon, beneath what each of them made of it."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error
