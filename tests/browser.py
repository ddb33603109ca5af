"""A headless Chromium, spoken to through its DevTools protocol: opens pages, clicks and types as a hand does, tells what they say."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
CLICKABLE = "a, button, label, summary, svg a, [role=button], [role=tab], [role=menuitem], [role=option], [role=radio], [role=checkbox]"
FIND = """
(() => {
  const documents = [document, ...[...document.querySelectorAll('iframe')].map(f => f.contentDocument).filter(d => d)];
  const words = e => [e.innerText, e.getAttribute('aria-label'), e.getAttribute('title')].map(t => (t || '').trim());
  const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden' && !e.disabled;
  const fits = %s;
  const found = documents.flatMap(d => [...d.querySelectorAll(%s)]).filter(e => shown(e) && fits(e)).at(%d);
  if (!found) return null;
  found.scrollIntoView({block: 'center', inline: 'center'});
  const frame = found.ownerDocument.defaultView.frameElement, box = found.getClientRects()[0];
  const outer = frame ? frame.getBoundingClientRect() : {x: 0, y: 0};
  return [outer.x + box.x + box.width / 2, outer.y + box.y + box.height / 2];
})()"""
"""Middle of (the first line of) an element, also of one in a frame, brought into view; null where it is not there (yet)."""


class Browser:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"].get("text")))

    def cookie(self, name: str, value: str, url: str) -> None:
        self.call("Network.setCookie", name=name, value=value, url=url)

    def phone(self) -> None:
        """Have the screen of a phone from now on."""
        self.call("Emulation.setDeviceMetricsOverride", **PHONE)

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.requests.clear()
        self.call("Page.navigate", url=url)
        while (message := json.loads(self._socket.recv(timeout=60))).get("method") != "Page.loadEventFired":
            self._note(message)

    def ask(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def key(self, name: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, text=name if len(name) == 1 and kind == "keyDown" else ""
            )

    def pointer(self, kind: str, x: float, y: float) -> None:
        """A movement or press of the mouse at a place of the window."""
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="none" if kind == "mouseMoved" else "left",
            clickCount=1,
        )

    def text(self) -> str:
        """What a reader sees, frames included."""
        frames = "[...document.querySelectorAll('iframe')].map(f => f.contentDocument?.body?.innerText || '')"
        return str(self.ask(f"[document.body.innerText, ...{frames}].join('\\n')"))

    def wait(self, expression: str, limit_s: float = 30.0) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        end = time.monotonic() + limit_s
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"never so: {expression}\n{self.ask('location.href')}\n{self.text()[:1500]}"
            time.sleep(0.1)
        return value

    def see(self, words: str, limit_s: float = 30.0) -> None:
        """Wait until a reader sees some words."""
        end = time.monotonic() + limit_s
        while words not in self.text():
            assert time.monotonic() < end, f"{words!r} is not on {self.ask('location.href')}:\n{self.text()[:1500]}"
            time.sleep(0.1)

    def click(self, words: str, *, among: str = CLICKABLE, number: int = 0, exact: bool = True) -> None:
        """Click with the mouse on what carries some words (its text, its label or its title)."""
        fits = "t === w" if exact else "t.includes(w)"
        self._press(f"e => (w => words(e).some(t => {fits}))({json.dumps(words)})", among, number)

    def press(self, selector: str, number: int = 0) -> None:
        """Click with the mouse on an element of a CSS selector."""
        self._press("e => true", selector, number)

    def _press(self, fits: str, among: str, number: int) -> None:
        """Click on the element once it is there and stands still."""
        find = FIND % (fits, json.dumps(among), number)
        place, before = self.wait(find), None
        while place != before:
            time.sleep(0.15)
            before, place = place, self.wait(find)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            x, y = place
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def chord(self, name: str, code: int) -> None:
        """Press a key, given with its Windows virtual key code, while the control key is held."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, modifiers=2)

    def fill(self, selector: str, words: str, number: int = 0) -> None:
        """Replace what stands in a field by some words."""
        self.press(selector, number)
        self.chord("a", 65)
        self.call("Input.insertText", text=words)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in a folder; closed at the end."""
    command = [BINARY or "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1280,900", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = next(m[1] for line in process.stderr if (m := re.search(r"listening on ws://([^/]+)/", line)))
        with urllib.request.urlopen(f"http://{address}/json") as answer:
            tab = next(entry for entry in json.load(answer) if entry["type"] == "page")
        with connect(tab["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(20)
