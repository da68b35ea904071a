from typing import Any

class WebSocketHandler:
    application: Any
    environ: dict[str, Any]
    request_version: str
    websocket: Any
    def __init__(self, sock: Any, address: tuple[str, int], server: Any, rfile: Any = ...) -> None: ...
    def upgrade_websocket(self) -> Any: ...
    def write(self, data: str) -> None: ...
