"""Asking the admin door of a node.

Responsible for: one request and its answer, and for one clear line when there is none. Refuses to know: what is asked.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

import requests
from requests.exceptions import ConnectionError, RequestException, SSLError, Timeout

from pico.errors import PicoError
from pico.protocol.tunnel import PROXY_CODES

__all__ = ["DEFAULT_URL", "AdminClient", "NoStatus"]

DEFAULT_URL: Final = "http://127.0.0.1:8001"
ANSWER_S: Final = 15.0
"""Longer than one node waits for another that it asks."""


class NoStatus(PicoError):
    """The node has not answered, or has refused; says why."""


class AdminClient:
    """The admin door at a URL; to be closed. ``ca_file`` says who vouches for it, else the system's authorities do.

    Without a scheme it is http.
    """

    def __init__(self, url: str | None, ca_file: str | None = None) -> None:
        url = (url or DEFAULT_URL).rstrip("/")
        self.url = url if "://" in url else f"http://{url}"
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
        """What stands at that path; raises ``NoStatus``."""
        return self._ask("GET", path, params=query)

    def act(self, path: str, body: dict[str, Any]) -> Any:
        """Have the node do something; raises ``NoStatus``."""
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **settings: Any) -> Any:
        url = self.url + path
        try:
            response = self._session.request(method, url, timeout=ANSWER_S, allow_redirects=False, **settings)
        except (RequestException, ValueError) as error:
            raise NoStatus(f"no status from {url}: {_reason(error)}") from error
        try:
            answer = response.json()
        except ValueError as error:
            raise NoStatus(f"no status from {url}: {response.status_code}, and not JSON") from error
        if response.ok:
            return answer
        raise NoStatus(_refusal(url, response.status_code, answer))


def _refusal(url: str, status: int, answer: Any) -> str:
    said = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(said, dict) and said.get("code") in PROXY_CODES:
        return f"no status from {url}: this is a node's port for clients; its admin port is 8001 by default"
    if isinstance(said, dict) and "message" in said:
        return f"{said['message']} ({status} {said.get('code')})"
    return f"no status from {url}: {status}"


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, Timeout):
        return f"no answer within {ANSWER_S:g} s"
    if isinstance(error, SSLError):
        return f"TLS: {text}"
    if "refused" in text:
        return "connection refused"
    if "resolve" in text or "not known" in text:
        return "the name leads nowhere"
    return "the connection was lost" if isinstance(error, ConnectionError) else text
