"""Twenty users at once on the studio, with random, wrong and broken-off requests; does the server grow or stumble?

    python tests/soak/studio_soak.py --users 20 --seconds 3600 --log tests/soak/studio_soak_log.txt

The server is `jitflow studio` with a tiny model on the CPU, in a process of its own. Each user draws what to do next:
sample, sample and press Stop, sample and close the browser, wrong values of any kind in any field, the slider, another
checkpoint, requests of other hosts and sites, uploads. At the end the time is measured in which a sampling whose client
is gone, or has pressed Stop, frees its place, and SIGTERM must leave nothing behind. The exit status is 1 if anything
was not answered in words.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from jitflow.apps.images.module import JiTLightningModule

ROOT = Path(__file__).parents[2]
GOOD = {"subject": "0,3", "count": 1, "seed": 0, "compare": False}
SETTINGS = {"ema": 0, "solver": "heun", "steps": 4, "guidance": 1.0, "interval": "0,1", "churn": 0}
ODD: list[Any] = [
    *(None, "", "x", "\ud800", "\x00", "<script>alert(1)</script>", "0-999999999", "1e308", "\u202e", "0," * 5000),
    *(True, -1, 0, 2.5, 1e308, -1e308, 10**30, 10**400, [], [1], {}, {"path": "/etc/passwd"}, "all", "../../x", "rk45"),
]


def save_model(path: Path) -> Path:
    """Write a checkpoint of an untrained model of five classes."""
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", img_size=16, num_classes=5, num_sampling_steps=6).eval()
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


class Server:
    """The studio in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        checkpoints = [save_model(folder / f"{name}.ckpt") for name in "ab"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "jitflow", "studio", *map(str, checkpoints), "--port", str(self.port)]
        self.output = folder / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--device", "cpu"],
                stdout=output,
                stderr=output,
                env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        deadline = time.monotonic() + 120
        while "studio at" not in self.output.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the studio did not start:\n{self.output.read_text()}")
            time.sleep(0.1)
        config = json.loads(self.ask("GET", "/config")[1])
        names = {item["id"]: item["props"].get("elem_id") for item in config["components"]}
        self.checkpoints = [str(path) for path in checkpoints]
        calls = config["dependencies"]
        self.generate = next(call for call in calls if len(call["inputs"]) > 10)
        self.fields = [names[number] for number in self.generate["inputs"]]
        self.stop = next(call["id"] for call in calls if not call["inputs"] and call["targets"][0][1] == "click")
        self.choose = next(call["id"] for call in calls if len(call["outputs"]) > 10 and len(call["inputs"]) == 1)
        self.slide = next(call["id"] for call in calls if len(call["inputs"]) == 2)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Send a request; return status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, session: str, number: int, data: list[Any]) -> int:
        """Start a call of the page; return the status."""
        body = {"data": data, "fn_index": number, "session_hash": session, "event_data": None, "trigger_id": None}
        return self.ask("POST", "/gradio_api/queue/join", body)[0]

    def run(self, number: int, session: str, data: list[Any]) -> int:
        """Make a call of the page that does not wait in a queue; return the status."""
        body = {"data": data, "fn_index": number, "session_hash": session}
        return self.ask("POST", "/gradio_api/run/predict", body)[0]

    def events(self, session: str) -> Iterator[dict[str, Any]]:
        """Read the results of a session's calls; closing the iterator closes the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
            answer = connection.getresponse()
            while line := answer.readline():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
        finally:
            connection.close()

    def values(self, checkpoint: int = 0, **changed: Any) -> list[Any]:
        """Return the values of all fields, good ones where no other is given."""
        known = {"checkpoint": self.checkpoints[checkpoint], **GOOD}
        known |= {f"{name}-{side}": value for side in "ab" for name, value in SETTINGS.items()}
        return [{**known, **changed}[name] for name in self.fields]

    def usage(self) -> tuple[float, int, int, float]:
        """Return resident memory in MB, threads, open files, and MB of temporary files."""
        place = Path(f"/proc/{self.process.pid}")
        status = place.joinpath("status").read_text()
        number = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads")}  # type: ignore[index]
        files = 0
        # Files and folders vanish meanwhile.
        for folder, _, names in os.walk(self.temporary):
            for name in names:
                with suppress(FileNotFoundError):
                    files += Path(folder, name).stat().st_size
        return number["VmRSS"] / 1e3, number["Threads"], len(list((place / "fd").iterdir())), files / 1e6


class User(threading.Thread):
    """Somebody who does one thing after another."""

    def __init__(self, server: Server, seed: int, end: float, counts: Counter[str], bad: list[str]) -> None:
        super().__init__(daemon=True)
        self.server, self.draws, self.end, self.counts, self.bad = server, random.Random(seed), end, counts, bad

    def run(self) -> None:
        actions = [self.sample, self.sample, self.wrong, self.wrong, self.wrong, self.stop, self.leave, self.look]
        while time.monotonic() < self.end:
            action = self.draws.choice([*actions, self.foreign, self.switch])
            try:
                action(secrets.token_hex(5))
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(f"{action.__name__}: {error!r}")
            time.sleep(self.draws.random())

    def watch(self, session: str, data: list[Any], *, until: float | None = None) -> str:
        """Sample; return how it ended. ``until``: seconds after which the browser is closed."""
        status = self.server.call(session, self.server.generate["id"], data)
        if status != 200:
            return f"status {status}"
        began = time.monotonic()
        for event in self.server.events(session):
            text = json.dumps(event.get("output", {}).get("data", [""])[:1])
            self.counts["told its place"] += "before yours" in text
            if until is not None and time.monotonic() - began > until:
                return "left"
            if event["msg"] == "process_completed":
                output = event.get("output", {})
                if not event["success"]:
                    error = output.get("error")
                    return "refused by a widget" if error else f"no reason: {event}"
                last = text if text not in ("[]", '[""]') else ""
                return "refused" if "refused" in last else "stopped" if "Stopped" in last else "drawn"
        return "no end"

    def note(self, what: str, allowed: tuple[str, ...], data: Any = None) -> None:
        """Count an outcome, and remember one that should not be."""
        self.counts[what if len(what) < 40 else what[:40]] += 1
        if what not in allowed:
            self.bad.append(f"{what} {str(data)[:300]}")

    def sample(self, session: str) -> None:
        """Draw a few images."""
        data = self.server.values(
            self.draws.randrange(2), seed=self.draws.randrange(99), count=self.draws.randrange(1, 4)
        )
        self.note(self.watch(session, data), ("drawn", "refused"), data)

    def wrong(self, session: str) -> None:
        """Give a wrong value in one or two fields."""
        data = self.server.values(compare=self.draws.random() < 0.3)
        for _ in range(self.draws.randrange(1, 3)):
            data[self.draws.randrange(len(data))] = self.draws.choice(ODD)
        self.note(self.watch(session, data), ("drawn", "refused", "refused by a widget"), data)

    def stop(self, session: str) -> None:
        """Press Stop while the images are drawn, or while waiting."""
        timer = threading.Timer(self.draws.random() * 2, self.server.run, (self.server.stop, session, []))
        timer.start()
        data = self.server.values(**{"subject": "all", "count": 6, "steps-a": 500})
        self.note(self.watch(session, data), ("stopped", "drawn", "refused"), data)
        timer.cancel()

    def leave(self, session: str) -> None:
        """Close the browser while the images are drawn, or while waiting."""
        data = self.server.values(**{"subject": "all", "count": 6, "steps-a": 500})
        self.note(self.watch(session, data, until=self.draws.random()), ("left", "drawn", "refused"), data)

    def look(self, session: str) -> None:
        """Open the page, and move the slider to anywhere."""
        self.note(f"page {self.server.ask('GET', '/')[0]}", ("page 200",))
        status = self.server.run(self.server.slide, session, [None, self.draws.choice([0, 0.5, 1])])
        self.note(f"slider {status}", ("slider 200",))

    def switch(self, session: str) -> None:
        """Choose a checkpoint."""
        status = self.server.call(session, self.server.choose, [self.draws.choice(self.server.checkpoints)])
        done = next((event for event in self.server.events(session) if event["msg"] == "process_completed"), {})
        self.note("chosen" if done.get("success") else f"not chosen: {status} {done}", ("chosen",))

    def foreign(self, session: str) -> None:
        """Ask as a page of another site does, or send files."""
        for path, headers in (
            ("/", {"Host": "evil.example"}),
            ("/gradio_api/queue/join", {"Origin": "http://evil.example"}),
            ("/gradio_api/upload", {}),
            ("/gradio_api/queue/join", {"Content-Length": str(10**9)}),
        ):
            try:
                status = self.server.ask("POST", path, {}, **headers)[0]
            except (ConnectionError, http.client.HTTPException):
                # The server closes a connection whose body it will not read.
                status = 413
            self.note(f"kept out {status}", ("kept out 403", "kept out 413", "kept out 421"))


def seconds_until_free(server: Server, how: str) -> float:
    """Start a long sampling, end it, and return how long another one then waits for its first frame."""
    first, second = secrets.token_hex(5), secrets.token_hex(5)
    server.call(first, server.generate["id"], server.values(**{"subject": "all", "count": 6, "steps-a": 500}))
    stream = server.events(first)
    for event in stream:
        if "step" in json.dumps(event.get("output", {}).get("data", [""])[:1]).lower():
            break
    server.call(second, server.generate["id"], server.values(**{"steps-a": 1}))
    began = time.monotonic()
    if how == "left":
        stream.close()
    else:
        server.run(server.stop, first, [])
    for event in server.events(second):
        if event["msg"] == "process_completed":
            return time.monotonic() - began
    raise SystemExit("the second sampling did not end")


def main() -> int:
    """Run users against a server; 0 if everything was answered in words and nothing was left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="studio-soak-"))
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    server = Server(folder)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    usage = [server.usage()]
    try:
        end = time.monotonic() + given.seconds
        users = [User(server, given.seed * 1000 + i, end, counts, bad) for i in range(given.users)]
        say(f"studio: {given.users} users, {given.seconds:g} s, seed {given.seed}")
        for user in users:
            user.start()
        while any(user.is_alive() for user in users):
            time.sleep(1)
            usage.append(server.usage())
        for name, count in sorted(counts.items()):
            say(f"  {count:6d} {name}")
        quarter = max(1, len(usage) // 4)
        names = ("MB resident", "threads", "open files", "MB of temporary files")
        for place, name in enumerate(names):
            numbers = [row[place] for row in usage]
            means = [statistics.mean(numbers[i : i + quarter]) for i in range(0, len(numbers), quarter)][:4]
            say(f"  {name}: {numbers[0]:.0f} at first; mean by quarter {', '.join(f'{mean:.0f}' for mean in means)}")
        for how in ("left", "stopped"):
            waits = [seconds_until_free(server, how) for _ in range(5)]
            say(f"  a client that {how} frees its place: {max(waits):.2f} s at most, the other's own image included")
    finally:
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(timeout=60)
    left = [path.name for path in server.temporary.glob("jitflow-studio-*")]
    say(f"  SIGTERM: exit status {status}, {len(left)} temporary folders left")
    # Gradio logs one for each value that a list of choices refuses in words.
    text = server.output.read_text()
    traces = text.count("Traceback") - text.count("is not in the list of choices")
    say(f"  {traces} tracebacks in the server's output, {len(bad)} answers that should not be")
    for answer in bad[:10]:
        say(f"    {answer}")
    if given.log is not None:
        given.log.write_text("\n".join(lines) + "\n")
    if bad or traces or left or status != 143:
        print(text[-4000:])
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
