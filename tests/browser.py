"""Debian's Chromium without a window, driven over a pipe by its own protocol (chromedevtools.github.io)."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe".split()
FLAGS += "--disable-background-networking --disable-component-update --disable-extensions".split()
WAIT_S = 60


class Page:
    """One tab; what it logs and asks the network for is kept."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.buffer = read, write, bytearray()
        self.last, self.session = 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.loaded = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The result of one command; events that come before it are noted."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        """Load a file at so many CSS pixels, in a light or dark scheme."""
        before = self.loaded
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=feature)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=path.absolute().as_uri())
        while self.loaded == before:
            self._next()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def _next(self) -> dict[str, Any]:
        """The next message of the browser."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], WAIT_S)
            found = os.read(self.read, 1 << 16) if ready else b""
            if not found:
                raise RuntimeError("chromium is gone" if ready else f"chromium is silent for {WAIT_S} s")
            self.buffer += found
        text, _, rest = self.buffer.partition(b"\0")
        self.buffer = rest
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Page.loadEventFired":
            self.loaded += 1
        elif event == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{params['type']}")


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium with a profile of its own, gone afterwards."""
    assert CHROMIUM is not None
    commands, write = os.pipe()
    read, answers = os.pipe()
    # the protocol's pipes are the file descriptors 3 and 4; bash, since sh knows descriptors of one digit alone
    shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
    process = subprocess.Popen(
        ["bash", "-c", shell, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(commands, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(commands)
    os.close(answers)
    try:
        yield Page(read, write)
    finally:
        os.close(write)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(read)
