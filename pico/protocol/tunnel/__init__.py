"""The agent's link to the nodes: registration, when to dial, move and end, and what a node holds of messages that do
not end (``spec/tunnel.md``).

Responsible for: what is exported from this package. Refuses to know: everything else.
"""

from pico.protocol.tunnel.commands import Abort, Announce, Change, Close, Command, Dial, GiveUp, Goaway, Serve
from pico.protocol.tunnel.link import Link, LinkSnapshot
from pico.protocol.tunnel.registration import (
    ELSEWHERE,
    HOPELESS_STATUSES,
    LISTENER_PATH,
    NODE_FIELD,
    PROXY_CODES,
    SUBPROTOCOL,
    Refusal,
    Registration,
    RegistrationRefused,
    check_acceptance,
    check_registration,
    listener_path,
    node_of,
    printable,
    refusal_of,
    refusal_response,
    registration_request,
    retry_after_s,
)
from pico.protocol.tunnel.spread import MOVE, Spread
from pico.protocol.tunnel.states import LINK, LinkInput, LinkState
from pico.protocol.tunnel.unfinished import Unfinished

__all__ = [
    "ELSEWHERE",
    "HOPELESS_STATUSES",
    "LINK",
    "LISTENER_PATH",
    "MOVE",
    "NODE_FIELD",
    "PROXY_CODES",
    "SUBPROTOCOL",
    "Abort",
    "Announce",
    "Change",
    "Close",
    "Command",
    "Dial",
    "GiveUp",
    "Goaway",
    "Link",
    "LinkInput",
    "LinkSnapshot",
    "LinkState",
    "Refusal",
    "Registration",
    "RegistrationRefused",
    "Serve",
    "Spread",
    "Unfinished",
    "check_acceptance",
    "check_registration",
    "listener_path",
    "node_of",
    "printable",
    "refusal_of",
    "refusal_response",
    "registration_request",
    "retry_after_s",
]
