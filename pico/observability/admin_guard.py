"""Who may act at the admin door, and who may only look.

Responsible for: letting through an action that an operator on this machine has asked for, and nobody else: not another
machine, and not a page of some other site in the operator's browser. Refuses to know: what the action is.

There are no admin tokens yet, so the address of the connection is all that is known of whoever asks. A browser on this
machine has such an address, too, whatever page it shows. It says where a request comes from (``Sec-Fetch-Site``,
``Origin``), does not send JSON to another site without being allowed to, and names the host that the page was loaded
from: a name of some other site that was made to lead here is not one of this machine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final

__all__ = ["objection"]

FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""A proxy on this machine speaks for others."""


def objection(remote: str, fields: Mapping[str, str], scheme: str) -> tuple[str, str] | None:
    """Why an action is refused: a code and a sentence; None when it is not."""
    if not _is_loopback(remote) or any(name in fields for name in FORWARDED):
        return "not_loopback", "actions are taken from this machine only"
    host = fields.get("host", "")
    if not _is_this_machine(host):
        return "foreign_host", "expected localhost or a loopback address as Host"
    if fields.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "cross_site", "the request comes from a page of another site"
    if fields.get("origin", f"{scheme}://{host}").lower() != f"{scheme}://{host}".lower():
        return "cross_site", "the request comes from a page of another origin"
    if fields.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "not_json", "expected Content-Type: application/json"
    return None


def _is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _is_this_machine(host: str) -> bool:
    """Of ``host``, ``host:port`` or ``[host]:port``."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)
