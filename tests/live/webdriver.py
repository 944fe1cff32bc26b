"""A real browser without a window, spoken to by the W3C WebDriver protocol and nothing else."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class Browser:
    """One session of a driver."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        chrome = {"goog:chromeOptions": {"args": OPTIONS}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": chrome}})
        self._session = f"/session/{made['sessionId']}"

    def open(self, url: str) -> None:
        """Go to a page."""
        self._of("POST", "/url", {"url": url})

    def all(self, css: str) -> list[str]:
        """The elements that a selector finds."""
        found = self._of("POST", "/elements", {"using": "css selector", "value": css})
        return [each[ELEMENT] for each in found]

    def click(self, css: str) -> None:
        """Click the one element that a selector finds."""
        (found,) = self.all(css)
        self._of("POST", f"/element/{found}/click", {})

    def label(self, element: str) -> str:
        """What a screen reader calls it."""
        return str(self._of("GET", f"/element/{element}/computedlabel"))

    def text(self, css: str = "body") -> str:
        """What a person reads there."""
        (found,) = self.all(css)
        return str(self._of("GET", f"/element/{found}/text"))

    def picture(self, path: Path) -> None:
        """What a person sees, as PNG."""
        path.write_bytes(base64.b64decode(self._of("GET", "/screenshot")))

    def close(self) -> None:
        """End the session."""
        self._of("DELETE", "")

    def _of(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(method, self._session + path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._driver + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


@contextmanager
def browsing(driver: str, port: int) -> Iterator[Browser]:
    """A browser behind the driver program of that path."""
    process = subprocess.Popen(
        [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{url}/status", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "the driver did not start"
                time.sleep(0.05)
        browser = Browser(url)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait()
