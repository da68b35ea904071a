"""The sidecar: tunnels to the nodes, and requests from them to a local service.

Responsible for: nothing itself. Refuses to know: everything.
"""
