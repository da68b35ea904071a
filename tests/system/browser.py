"""A real browser, driven as its makers have it: chromedriver and the WebDriver protocol over plain HTTP.

Responsible for: starting a headless Chromium with an empty profile, one wrapper around what a test asks of it, and its
end. Refuses to know: the page.

Where Chromium is missing it is installed, if this is root on a machine with apt-get; else ``why_not`` says why a test
cannot run.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.system.processes import HOST, until

__all__ = ["KEYS", "Browser", "Element", "why_not"]

INSTALL_S = 300.0
START_S = 60.0
ANSWER_S = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that the protocol gives to a reference to an element

FLAGS = (
    "--headless",
    "--no-sandbox",  # root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--lang=en",
)

KEYS = {"tab": "\ue004", "enter": "\ue007", "shift": "\ue008", "escape": "\ue00c", "space": " "}


@cache
def why_not() -> str:
    """Why there is no browser here; empty when there is one."""
    if _found():
        return ""
    if shutil.which("apt-get") is None:
        return "no chromium and chromedriver here, and no apt-get to install them with"
    if os.geteuid() != 0:
        return "no chromium and chromedriver here, and only root could install them"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ["chromium", "chromium-driver", "fonts-inter"]
    for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(["apt-get", *words], capture_output=True, env=environment, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            return f"apt-get {words[0]} took longer than {INSTALL_S:.0f} s"
        if done.returncode:
            return f"apt-get {words[0]} failed: {done.stderr.decode(errors='replace').strip()[-200:]}"
    return "" if _found() else "apt-get has installed no chromedriver"


def _found() -> bool:
    return shutil.which("chromedriver") is not None and shutil.which("chromium") is not None


class Element:
    """One element of the page."""

    def __init__(self, browser: Browser, reference: str) -> None:
        self._browser = browser
        self._path = f"/element/{reference}"

    @property
    def text(self) -> str:
        """Its text as it is shown."""
        text: str = self._browser.get(f"{self._path}/text")
        return text

    def click(self) -> None:
        self._browser.post(f"{self._path}/click")

    def type(self, text: str) -> None:
        self._browser.post(f"{self._path}/value", text=text)


class Browser:
    """One window; leaving the ``with`` block ends it."""

    def __init__(self, *, width: int = 1600, height: int = 1000, dark: bool = False, flags: Sequence[str] = ()) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="pico-browser-", ignore_cleanup_errors=True)
        log = Path(self._profile.name) / "driver.log"
        with log.open("wb") as out:
            tied = [path, "--pdeathsig", "KILL", "--"] if (path := shutil.which("setpriv")) else []
            self._driver = subprocess.Popen(
                [*tied, "chromedriver", "--port=0"], stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0
            )
        self._http = requests.Session()
        self._http.trust_env = False
        port = until(
            lambda: re.search(r"started successfully on port (\d+)", log.read_text(errors="replace")),
            "chromedriver",
            START_S,
        )[1]
        self._base = f"http://{HOST}:{port}"
        data = Path(self._profile.name) / "data"
        data.mkdir()
        options = {"args": [*FLAGS, *flags, f"--user-data-dir={data}", f"--window-size={width},{height}"]}
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": LOGS}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self._base += f"/session/{session['sessionId']}"
        self.resize(width, height)
        self.devtools("Emulation.setEmulatedMedia", features=[_media("prefers-color-scheme", dark)])

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._ask("DELETE", "")
        except requests.RequestException:
            pass  # the whole group ends now anyway
        self._http.close()
        # The browser's processes are in the driver's group.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._driver.poll() is None:
                os.killpg(self._driver.pid, number)
                try:
                    self._driver.wait(5.0)
                except subprocess.TimeoutExpired:
                    continue
        self._profile.cleanup()

    # What a test does.

    def open(self, url: str) -> None:
        self.post("/url", url=url)

    def reload(self) -> None:
        self.post("/refresh")

    def back(self) -> None:
        self.post("/back")

    def resize(self, width: int, height: int) -> None:
        """The page itself gets this size; a window of Chromium cannot be as narrow as a telephone."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def element(self, selector: str) -> Element:
        """The first element that the CSS selector finds."""
        found = self.post("/element", using="css selector", value=selector)
        return Element(self, found[ELEMENT])

    def press(self, *keys: str) -> None:
        """Press and release one after the other, whatever has the focus; ``shift+`` in front holds that meanwhile."""
        actions = []
        for key in keys:
            held, _, last = key.rpartition("+")
            codes = [KEYS.get(name, name) for name in (*filter(None, [held]), last)]
            actions += [{"type": "keyDown", "value": code} for code in codes]
            actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self.post("/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns in the page."""
        return self.post("/execute/sync", script=script, args=list(arguments))

    def text(self, selector: str) -> str:
        """The text of the first such element, shown or not; empty when there is none."""
        text: str = self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
        return text

    def until(self, script: str, *arguments: Any, within_s: float = 10.0) -> Any:
        """What the body of a function returns, once that is true."""
        return until(lambda: self.run(script, *arguments), script, within_s)

    def screenshot(self, *, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        picture = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole, optimizeForSpeed=False)["data"]
        return base64.b64decode(picture)

    def console(self) -> list[str]:
        """What the console has said since it was asked last: errors and broken policies above all."""
        return [entry["message"] for entry in self.post("/se/log", type="browser")]

    def requested(self) -> list[str]:
        """The URLs that were asked for since this was called last."""
        messages = [json.loads(entry["message"])["message"] for entry in self.post("/se/log", type="performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    # How it is asked.

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, **parameters: Any) -> Any:
        return self._ask("POST", path, parameters)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        response = self._http.request(method, self._base + path, json=body, timeout=ANSWER_S)
        value = response.json()["value"]
        assert response.ok, f"{method} {path}: {value['error']}: {value['message']}"
        return value


LOGS = {"browser": "ALL", "performance": "ALL"}


def _media(name: str, dark: bool) -> dict[str, str]:
    return {"name": name, "value": "dark" if dark else "light"}
