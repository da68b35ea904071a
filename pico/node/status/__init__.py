"""What a node says of itself and of the cluster to whoever operates it."""

from pico.node.status.actors import ActorPages
from pico.node.status.elsewhere import Elsewhere
from pico.node.status.endpoints import EndpointPages
from pico.node.status.nodes import NodePages
from pico.node.status.pages import Status

__all__ = ["ActorPages", "Elsewhere", "EndpointPages", "NodePages", "Status"]
