"""One conformance suite, run on sockets and on memory."""
