"""A headless Chromium, spoken to by its DevTools protocol over two pipes: no driver, no port, no network."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# What sticks out of the window, unless it lies in something that scrolls by itself.
OVERFLOWING = """
(() => {
  const wide = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > wide) found.push("the page is " + document.documentElement.scrollWidth);
  for (const one of document.body.querySelectorAll("*")) {
    if (one.closest(".scrolls") && wide >= 600) continue;  // a wide table scrolls by itself, but not on a telephone
    const box = one.getBoundingClientRect();
    if (box.width && (box.right > wide + 1 || box.left < -1))
      found.push(one.tagName + "." + (one.getAttribute("class") || "") + " " + Math.round(box.left) + " to " +
                 Math.round(box.right) + ": " + one.textContent.trim().slice(0, 60));
  }
  return found.slice(0, 10);
})()
"""


def find_chromium() -> str | None:
    """The browser's program; None where there is none."""
    return os.environ.get("MMKD_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Seen:
    """What a page did while it was shown."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    overflowing: list[str] = field(default_factory=list)
    text: str = ""
    svgs: int = 0


class Browser:
    """Use as a context; ``show`` as often as one likes."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.profile = tempfile.mkdtemp(prefix="mmkd-chromium-")
        self.number, self.buffer = 0, b""
        self.events: list[dict] = []

    def __enter__(self) -> "Browser":
        (read_by_it, self.commands), (self.answers, written_by_it) = os.pipe(), os.pipe()
        # It reads from descriptor 3 and writes to 4, which a shell can give it.
        line = [self.program, *OPTIONS, f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read_by_it} 4>&{written_by_it}', "bash", *line],
            pass_fds=(read_by_it, written_by_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_it)
        os.close(written_by_it)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method: str, session: str | None = None, **parameters: object) -> dict:
        self.number += 1
        line = {"id": self.number, "method": method, "params": parameters}
        if session:
            line["sessionId"] = session
        os.write(self.commands, json.dumps(line).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def show(
        self, page: Path, *, width: int, dark: bool = False, paper: bool = False, picture: Path | None = None
    ) -> Seen:
        """Open ``page`` in a window of ``width`` pixels, and take its picture."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable", session)
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask(
            "Emulation.setEmulatedMedia", session, media="print" if paper else "screen", features=[scheme]
        )
        self.events.clear()
        self.ask("Page.navigate", session, url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        seen = Seen(overflowing=self._evaluate(session, OVERFLOWING))
        seen.text = self._evaluate(session, "document.body.innerText")
        seen.svgs = self._evaluate(session, "document.querySelectorAll('figure > svg').length")
        if picture is not None:
            shot = self.ask("Page.captureScreenshot", session, captureBeyondViewport=True, format="png")
            picture.write_bytes(base64.b64decode(shot["data"]))
        self._read_events(seen, page)
        self.ask("Target.closeTarget", targetId=target)
        return seen

    def _evaluate(self, session: str, expression: str):
        found = self.ask("Runtime.evaluate", session, expression=expression, returnByValue=True)
        return found["result"].get("value")

    def _read_events(self, seen: Seen, page: Path) -> None:
        for event in self.events:
            method, given = event.get("method"), event.get("params", {})
            if method == "Network.requestWillBeSent":
                url = given["request"]["url"]
                if not url.startswith("data:") and url != page.resolve().as_uri():
                    seen.requests.append(url)
            elif method == "Runtime.exceptionThrown":
                seen.errors.append(str(given["exceptionDetails"].get("text")))
            elif method == "Runtime.consoleAPICalled":
                seen.errors.append(str(given["args"]))
            elif method == "Log.entryAdded":
                seen.errors.append(given["entry"]["text"])

    def _wait_for(self, method: str) -> None:
        ends = time.monotonic() + 60
        while not any(event.get("method") == method for event in self.events):
            assert time.monotonic() < ends, f"no {method} within a minute"
            self.events.append(self._next())

    def _next(self) -> dict:
        while b"\0" not in self.buffer:
            data = os.read(self.answers, 1 << 20)
            assert data, "the browser ended"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)
