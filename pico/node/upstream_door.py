"""The upstream door: from an accepted socket to a registered upstream, or a refusal with its reason.

Responsible for: the opening handshake under a deadline, its strict check, the limits on connections, and starting the
``UpstreamConnection`` that takes the socket over. Refuses to know: what travels on the tunnel afterwards, and which
requests go there.

The head is read and judged by our own parser. gevent-websocket then writes the acceptance; its frame code never touches
the connection, because it has no size limit, takes unmasked frames and does not lock its writer.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from itertools import count
from types import SimpleNamespace
from typing import Any, Final

import pykka
from geventwebsocket.handler import WebSocketHandler

from pico.actors.endpoint_pool import Endpoints
from pico.actors.upstream_connection import UpstreamConnection
from pico.config import NodeConfig
from pico.errors import RemoteProtocolError, TransportError
from pico.observability.metrics import NodeMetrics
from pico.protocol.http import Failure, Request, RequestReader, RequestRejected, endpoint_id, failure_response
from pico.protocol.rpc import BaseEngine, StreamingEngine
from pico.transport.clock import Clock
from pico.transport.stream import BlockingReader, Stream
from pico.transport.websocket import WebSocketCodec

__all__ = ["UpstreamDoor"]
