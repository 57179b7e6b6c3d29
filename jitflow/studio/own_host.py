"""Content security policy of the page: a browser that shows it loads nothing from any other host."""

from __future__ import annotations

from typing import Any


class OwnHostOnly:
    """ASGI middleware that sends a content security policy for the page's own host.

    Args:
        app: The application behind it.
    """

    POLICY = (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; frame-ancestors 'self'; "
        "form-action 'self'"
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request with the policy among the headers."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", self.POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_policy)
