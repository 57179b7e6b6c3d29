"""Sessions of the page: the sampling that each has running, which ends when its browser is gone or presses Stop."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

# A browser opens its next stream of results right after the last one.
_GRACE_SEC = 0.5
_STREAM = "/queue/data"


class Sessions:
    """Running sampling of each browser session, and the streams through which its results go."""

    def __init__(self) -> None:
        self._running: dict[str | None, threading.Event] = {}
        self._streams: Counter[str] = Counter()
        self._lock = threading.Lock()

    def start(self, session: str | None) -> threading.Event:
        """Return the event that ends a new sampling of a session; an older one of the same session ends at once."""
        stopped = threading.Event()
        with self._lock:
            self._end(session)
            self._running[session] = stopped
        return stopped

    def finish(self, session: str | None, stopped: threading.Event) -> None:
        """Forget a sampling that has ended, and end it if it has not."""
        stopped.set()
        with self._lock:
            if self._running.get(session) is stopped:
                del self._running[session]

    def stop(self, session: str | None) -> None:
        """End the sampling of a session, if it has one."""
        with self._lock:
            self._end(session)

    def open_stream(self, session: str) -> None:
        """Count a stream of results that a browser has opened."""
        with self._lock:
            self._streams[session] += 1

    def close_stream(self, session: str) -> None:
        """End the sampling of a session whose last stream is closed and stays so."""
        with self._lock:
            self._streams[session] -= 1
            if self._streams[session] > 0:
                return
            del self._streams[session]
            left = self._running.get(session)
        if left is not None:
            timer = threading.Timer(_GRACE_SEC, self._end_if_gone, (session, left))
            timer.daemon = True
            timer.start()

    def _end_if_gone(self, session: str, left: threading.Event) -> None:
        with self._lock:
            if session not in self._streams:
                left.set()

    def _end(self, session: str | None) -> None:
        if session in self._running:
            self._running[session].set()


class SessionWatch:
    """ASGI middleware that sees the streams of results of each browser session begin and end.

    Args:
        app: The application behind it.
        sessions: The sessions.
    """

    def __init__(self, app: Any, sessions: Sessions) -> None:
        self.app = app
        self.sessions = sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        session = None
        if scope["type"] == "http" and scope["path"].endswith(_STREAM):
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[0]
        if session is None:
            await self.app(scope, receive, send)
            return
        self.sessions.open_stream(session)
        try:
            await self.app(scope, receive, send)
        finally:
            self.sessions.close_stream(session)
