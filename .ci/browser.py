"""A real headless Chromium, driven by the WebDriver protocol over plain HTTP: few enough calls that a library would be more.

Debian's packages `chromium` and `chromium-driver`. Sizes, colours and pictures go through Chromium's own protocol, which the
driver passes on.
"""

import base64
import contextlib
import json
import os
import pathlib
import time
import urllib.error
import urllib.request

from stack import Failed, free_port

# How long a picture may take to become what is waited for, on a machine that is busy.
PATIENCE_SECONDS = 30

KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Left": "\ue012", "Right": "\ue014", "End": "\ue010", "Home": "\ue011"}


class Browser:
    """One window of one browser."""

    def __init__(self, processes):
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        processes.start("chromedriver", ["chromedriver", f"--port={port}"])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            processes.check()
            with contextlib.suppress(Failed):
                if self.call("GET", "/status")["ready"]:
                    break
            if time.monotonic() > deadline:
                raise Failed("chromedriver is not ready")
            time.sleep(0.1)
        # Chromium refuses its sandbox to root; a container gives it little shared memory.
        arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        options = {"args": arguments}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.base += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        """What the driver answers; a refusal is a failure with its text."""
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.read().decode(errors='replace')[:600]}") from error
        except OSError as error:
            raise Failed(f"{method} {path}: {error}") from error

    def chromium(self, command, **parameters):
        """A command of Chromium's own protocol."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def address(self):
        return self.call("GET", "/url")

    def back(self):
        self.call("POST", "/back")

    def run(self, script, *arguments):
        """What a script in the page returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, what, script, *arguments):
        """Waits until a script in the page returns something true, and returns it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > deadline:
                text = self.run("return document.body.innerText")[:1500]
                raise Failed(f"{what}: not within {PATIENCE_SECONDS} s; {self.address()} shows\n{text}\n{self.complaints()}")
            time.sleep(0.1)
        return found

    def text(self, selector):
        """The text of an element, waited for."""
        return self.wait(selector, "return document.querySelector(arguments[0])?.innerText", selector)

    def click(self, selector):
        """Clicks as a person does, where it can be seen."""
        self.wait(f"{selector} to click", "return Boolean(document.querySelector(arguments[0]))", selector)
        element = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{next(iter(element.values()))}/click")

    def type(self, *keys):
        """Presses keys one after another, wherever the focus is."""
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def shape(self, width, height, scheme):
        """How large the window is, and whether the system is light or dark; without animations, so that pictures are still."""
        self.chromium("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
        self.chromium("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: pathlib.Path):
        """Saves what is seen as PNG."""
        data = self.chromium("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self):
        """What the page complained of since the last time: script errors, refused policies, failed requests."""
        lines = self.call("POST", "/se/log", {"type": "browser"})
        return [f"{line['level']}: {line['message']}" for line in lines if line["level"] in ("SEVERE", "WARNING")]

    def close(self):
        """Ends the browser, which is no child of this program."""
        with contextlib.suppress(Failed):
            self.call("DELETE", "")
