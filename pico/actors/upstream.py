"""A registered connection from a service, as requests see it.

Responsible for: what tells one upstream from the others, and whether it takes a stream. Refuses to know: the actor that
owns it (``pico.actors.upstream_connection``), and how a request comes to it (``pico.actors.routes``).
"""

from __future__ import annotations

from pico.transport.multiplexer import Multiplexer

__all__ = ["Upstream"]


class Upstream:
    """One tunnel, for as long as that lasts: made by its actor, and known by its identity to pools and requests."""

    __slots__ = ("address", "agent", "endpoint_id", "id", "multiplexer", "since", "streaming")

    def __init__(
        self,
        id_: str,
        endpoint_id: str,
        multiplexer: Multiplexer,
        *,
        streaming: bool,
        address: str,
        agent: str,
        since: float,
    ) -> None:
        self.id = id_
        self.endpoint_id = endpoint_id
        self.multiplexer = multiplexer
        self.streaming = streaming
        self.address = address
        self.agent = agent
        self.since = since

    @property
    def in_flight(self) -> int:
        """Streams that have not ended."""
        return self.multiplexer.in_flight

    @property
    def may_open(self) -> bool:
        """Whether it takes another stream now."""
        return self.multiplexer.may_open

    @property
    def streams_free(self) -> int:
        """How many more it takes now."""
        return self.multiplexer.streams_free

    @property
    def leaving(self) -> bool:
        """Whether it will take no stream any more, though its pool may not know yet."""
        return self.multiplexer.leaving
