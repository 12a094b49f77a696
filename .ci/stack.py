"""What the end-to-end runs share: real programs as processes of their own, on free ports, and waiting for a fact.

Nothing here knows what is checked. Every process is stopped by its id, whatever happens; a run that fails prints the
end of each log.
"""

import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
ROLLCALL = TARGET / "release" / "rollcall"

# Longer than it ever takes; reached only if something is missing.
PATIENCE_SECONDS = 150

BEGAN = time.monotonic()


class Failed(Exception):
    """What the run found; its text is the report."""


def say(text):
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)


def get(url, **parameters):
    """The body of an answer as JSON; an error answer is a failure with its text."""
    if parameters:
        url = f"{url}?{urllib.parse.urlencode(parameters, doseq=True)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failed(f"{url}: {error.code} {error.read().decode(errors='replace')[:500]}") from error
    except OSError as error:
        raise Failed(f"{url}: {error}") from error


def wait_for(what, attempt):
    """Calls `attempt` until it returns nothing left to wait for, or fails with what it was still waiting for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing := attempt():
        if time.monotonic() > deadline:
            lines = missing if isinstance(missing, list) else [str(missing)]
            raise Failed(f"{what}: still missing after {PATIENCE_SECONDS} s:\n  " + "\n  ".join(lines))
        time.sleep(1)
    say(what)


class Processes:
    """Processes of this run, each with its log; they are stopped by their own ids, the last one first."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, command, **options):
        with open(self.folder / f"{name}.log", "wb") as log:
            options.setdefault("stdout", log)
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, cwd=self.folder, **options)
        self.running.append((name, process))
        return process

    def check(self):
        for name, process in self.running:
            if process.poll() is not None:
                raise Failed(f"{name} ended with status {process.returncode}")

    def stop(self):
        """Asks all to end and returns their statuses; who does not within 20 s is killed."""
        statuses = {}
        while self.running:
            name, process = self.running.pop()
            process.terminate()
            try:
                statuses[name] = process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                statuses[name] = "killed: it did not end within 20 s"
        return statuses

    def stop_one(self, name):
        """Asks the newest of this name to end, which has to end well."""
        place = max(place for place, (known, _) in enumerate(self.running) if known == name)
        _, process = self.running.pop(place)
        process.terminate()
        if (status := process.wait(timeout=20)) != 0:
            raise Failed(f"{name} ended with status {status}")

    def print_logs(self):
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-30:]
            print(f"--- the end of {log.name}", *lines, sep="\n", flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def first_line(process, seconds):
    """The first line that a process prints, which is the promise that it is there."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline().decode().strip() if ready else ""
    if not line.startswith("http://"):
        raise Failed(f"the registry printed no URL within {seconds} s, but {line!r}")
    return line


def serve(processes, folder, **variables):
    """A registry with its log in `folder`; its URL."""
    server = processes.start(
        "registry",
        [ROLLCALL, "serve", "--listen", "127.0.0.1:0", "--data", folder / "data"],
        stdout=subprocess.PIPE,
        env=os.environ | variables,
    )
    registry = first_line(server, 30)
    # The URL is printed when the socket is bound; until the log is replayed, questions are answered 503.
    deadline = time.monotonic() + 30
    health = [ROLLCALL, "health", "--url", registry]
    while (ready := subprocess.run(health, capture_output=True, check=False, timeout=30)).returncode != 0:
        if time.monotonic() > deadline:
            raise Failed(f"the registry at {registry} is not ready after 30 s: {ready.stdout.decode()}")
        time.sleep(0.05)
    say(f"the registry is at {registry}")
    return registry


def end_clean(processes, folder):
    """Everything ends with status 0 when asked to, and the log that is left is clean."""
    statuses = processes.stop()
    if any(statuses.values()):
        raise Failed(f"not all ended with status 0 on SIGTERM: {statuses}")
    verified = subprocess.run([ROLLCALL, "verify", folder / "data"], capture_output=True, check=False)
    if verified.returncode != 0:
        raise Failed(f"the log is not clean:\n{(verified.stdout + verified.stderr).decode()}")
    say("all ended when asked to, and the log is clean")


def main(run):
    """Runs `run(processes, folder)` in a folder of its own, and cleans up behind it."""
    # Asked to end, a script ends what it started: an exit runs the clean-up below, a bare signal does not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAILED: ended by a signal"))
    if not ROLLCALL.is_file():
        sys.exit(f"{ROLLCALL} is not there: cargo build --release")
    with tempfile.TemporaryDirectory(prefix="rollcall-e2e-") as folder:
        processes = Processes(pathlib.Path(folder))
        try:
            run(processes, pathlib.Path(folder))
        except Failed as failure:
            processes.stop()
            processes.print_logs()
            sys.exit(f"FAILED: {failure}")
        finally:
            processes.stop()
