"""Bytes: sockets, TLS, WebSocket frames, clocks, and the multiplexer that joins them to an RPC engine."""
