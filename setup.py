"""Builds Pico; ``setup.cfg`` says what it is.

Responsible for: which modules a wheel brings compiled, by mypyc from the same source that runs uncompiled. Refuses to
know: anything else about the package.

A source tree that is installed to be worked on (``pip install -e``) is never compiled, so what is edited is what runs.
A wheel is, where there are a C compiler and Python's headers: without them it holds plain Python and works as well.
``PICO_COMPILE=0`` leaves compiling out, ``PICO_COMPILE=1`` insists on it.
"""

import os
import sys

from setuptools import Extension, setup

# What a request passes through on its way, and nothing else: compiled code starts slower and says less of itself.
COMPILED = (
    "pico/protocol/channel/frames.py",
    "pico/protocol/http/endpoint.py",
    "pico/protocol/http/fields.py",
    "pico/protocol/http/forwarding.py",
    "pico/protocol/http/framing.py",
    "pico/protocol/http/reading.py",
    "pico/protocol/http/request.py",
    "pico/protocol/http/response.py",
    "pico/protocol/http/values.py",
    "pico/protocol/rpc/base.py",
    "pico/protocol/rpc/connection.py",
    "pico/protocol/rpc/events.py",
    "pico/protocol/rpc/messages.py",
    "pico/protocol/rpc/states.py",
    "pico/protocol/rpc/stream.py",
    "pico/protocol/rpc/streaming.py",
    "pico/protocol/value.py",
    "pico/transport/blocking_reader.py",
    "pico/transport/channel.py",
    "pico/transport/multiplexer.py",
    "pico/transport/parking.py",
    "pico/transport/stream.py",
    "pico/transport/websocket.py",
    "pico/observability/access_log.py",
    "pico/observability/tally.py",
    "pico/actors/relay.py",
    "pico/actors/mailbox.py",
    "pico/actors/peers.py",
    "pico/actors/proxy_request.py",
    "pico/actors/request_services.py",
    "pico/actors/routes.py",
    "pico/actors/spares.py",
    "pico/actors/upstream.py",
    "pico/node/proxy_door.py",
    "pico/agent/service_exchange.py",
    "pico/agent/service.py",
)


def compiled() -> list[Extension]:
    """The extension modules of this build."""
    wanted = os.environ.get("PICO_COMPILE", "")
    if wanted not in ("", "0", "1"):
        sys.exit(f"PICO_COMPILE is {wanted!r}, but only 0 and 1 mean something")
    if wanted == "0" or "bdist_wheel" not in sys.argv:
        return []
    from mypyc.build import mypycify

    try:
        extensions = mypycify(["--config-file=", "--ignore-missing-imports", *COMPILED], debug_level="0")
    except SystemExit as error:
        if wanted == "1":
            raise
        print(f"nothing is compiled: {error}", file=sys.stderr)
        return []
    for extension in extensions:
        extension.optional = wanted != "1"
        # What a compiler newer than mypyc warns of is no fault of ours.
        extension.extra_compile_args = [option for option in extension.extra_compile_args if option != "-Werror"]
    return extensions


setup(ext_modules=compiled())
