"""What the studio's server refuses, and the content security policy of its page.

A browser that shows the page loads nothing from any other host. A page of another site that the same browser shows can
send nothing here: requests name this host, under a name of it, and come from its own pages.
"""

from __future__ import annotations

import ipaddress
import json
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from jitflow.io.json_text import parse_json

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which only this machine can reach the page."""
# Settings of a request and a long prompt; there is nothing to upload.
MAX_BODY_BYTES = 2**20
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
_CLOSED = ("/upload", "/upload_progress", "/process_recording", "/component_server")
_CLOSED_PREFIXES = ("/proxy=", "/stream/", "/vibe-", "/undo-vibe-", "/run-history", "/custom_component")


class OwnHostOnly:
    """ASGI middleware that answers only requests to and from the page's own host, and sends a content security policy.

    Args:
        app: The application behind it.
        host: Address that the server listens on.
    """

    POLICY = (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; frame-ancestors 'self'; "
        "form-action 'self'"
    )

    def __init__(self, app: Any, host: str = LOOPBACK[0]) -> None:
        self.app = app
        self.host = host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request with the policy among the headers, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", self.POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self.app(scope, _whole_characters(receive), send_with_policy)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, text = refusal
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send_with_policy({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": f"{text}\n".encode()})

    def _refusal(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return status and reason if a request is refused."""
        host = headers.get("host", "").lower()
        named = _HOST.fullmatch(host)
        if named is None or not self._is_own(named["name"].strip("[]")):
            return 421, "this page answers under its own address only, not under this Host; use a tunnel to it"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return 403, "requests from pages of other sites (Origin) are refused"
        path = scope["path"].removeprefix("/gradio_api")
        if path.rstrip("/") in _CLOSED or path.startswith(_CLOSED_PREFIXES):
            return 403, "the studio takes no files and no code"
        if scope.get("method") not in (None, "GET", "HEAD"):
            length = headers.get("content-length", "")
            # A chunked body has any length, whatever else is said.
            if not length.isdecimal() or "transfer-encoding" in headers:
                return 411, "the length of the request is missing (Content-Length)"
            if int(length[:20]) > MAX_BODY_BYTES:
                return 413, f"requests have at most {MAX_BODY_BYTES} bytes"
        return None

    def _is_own(self, name: str) -> bool:
        """Whether a host name means this server; an address always does, a name of some other site never."""
        if self.host in LOOPBACK:
            return name in LOOPBACK
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in (*LOOPBACK, self.host.lower(), platform.node().lower())
        return True


def _whole_characters(receive: Any) -> Any:
    """Replace halves of characters in the JSON of a request, which no answer could repeat."""

    async def receive_repaired() -> Any:
        # The whole of it, of at most MAX_BODY_BYTES: a half can lie in any part.
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if b"\\ud" in body.lower():
            with suppress(ValueError):
                # U+FFFD takes their place.
                body = json.dumps(parse_json(body.decode()), ensure_ascii=False).encode()
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_repaired
