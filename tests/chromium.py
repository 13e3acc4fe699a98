"""A thin driver of a headless Chromium, by its DevTools protocol over a pipe: open a page, run a script in it, press keys."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from typing import Any

PATH = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = ("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--hide-scrollbars", "--no-sandbox")  # root, as CI is, has no sandbox
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " "), "/": (191, "/")}


class Chromium:
    """A browser with one page. `errors` are what the page's scripts threw, and what its policy refused."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        theirs_in, self._in = os.pipe()
        self._out, theirs_out = os.pipe()
        self._lend(theirs_in, theirs_out)
        self._count, self._rest, self._page = 0, b"", ""
        self.errors: list[str] = []
        self.requests: list[str] = []

    def _lend(self, reads: int, writes: int) -> None:
        """Start the browser, which reads commands from descriptor 3 and writes replies to 4."""
        command = f'exec "$@" 3<&{reads} 4>&{writes}'
        started = [PATH, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", command, "bash", *started], pass_fds=(reads, writes),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        os.close(reads)
        os.close(writes)

    def __enter__(self) -> "Chromium":
        target = next(t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._page = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        session = {"sessionId": self._page} if self._page else {}
        os.write(self._in, json.dumps({"id": self._count, "method": method, "params": params, **session}).encode() + b"\0")
        while (message := self._next()).get("id") != self._count:
            self._note(message)
        assert "error" not in message, message["error"]
        return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._out, 1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", "") or str(told))
        elif message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif message.get("method") == "Page.javascriptDialogOpening":
            self.errors.append(f"a dialog: {told['message']}")

    def size(self, width: int, height: int) -> None:
        """Give the page so many pixels; narrow ones are a phone's."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def dark(self, on: bool) -> None:
        """Have the system prefer dark pages."""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}])

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        self._ask("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def run(self, script: str) -> Any:
        """Return what an expression gives in the page, promises awaited."""
        found = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression holds in the page."""
        ends = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < ends, f"never came true: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self._ask("Input.insertText", text=text)

    def picture(self) -> bytes:
        """Return what is seen of the page, as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
