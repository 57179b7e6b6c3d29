"""What the studio's server answers and refuses, by the head of a request alone."""

import asyncio
import json
import platform

import pytest

from jitflow.studio.own_host import MAX_BODY_BYTES, OwnHostOnly

OWN = {"host": "127.0.0.1:7860"}
POST = {**OWN, "content-length": "20"}


def ask(headers, path="/", method="GET", listening="127.0.0.1"):
    """Status of the answer to a request."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    lines = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": lines}
    asyncio.run(OwnHostOnly(app, host=listening)(scope, None, send))
    assert b"content-security-policy" in dict(sent[0]["headers"])
    return sent[0]["status"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:80", "LOCALHOST", "[::1]:7860"])
def test_its_own_names_are_answered(host):
    assert ask({"host": host}) == ask({"host": host, "origin": f"http://{host}"}) == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example:7860", "10.0.0.1", "[", "user@localhost:x y"]
)
def test_other_hosts_are_refused(host):
    # A name of another site that is made to lead here.
    assert ask({"host": host}) == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://localhost:7860", "http://127.0.0.1:8000", "http://["]
)
def test_pages_of_other_sites_are_refused(origin):
    assert ask({**POST, "origin": origin}, "/gradio_api/queue/join", "POST") == 403


def test_an_open_server_is_known_by_addresses_and_its_own_name():
    for host in ("192.168.0.7:7860", "[fe80::1]:7860", "localhost", platform.node()):
        assert ask({"host": host}, listening="0.0.0.0") == 200
    assert ask({"host": "evil.example"}, listening="0.0.0.0") == 421
    assert ask({"host": "my.host"}, listening="my.host") == 200


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/upload", "/gradio_api/upload/", "/upload", "/gradio_api/proxy=http://x", "/gradio_api/stream/x"],
)
def test_files_and_detours_are_refused(path):
    assert ask(POST, path, "POST") == ask(OWN, path) == 403


def test_bodies_are_small_and_of_known_length():
    join = ("/gradio_api/queue/join", "POST")
    assert ask(POST, *join) == 200
    assert ask(OWN, *join) == 411
    for length, status in (
        (MAX_BODY_BYTES, 200),
        (MAX_BODY_BYTES + 1, 413),
        ("9" * 5000, 413),
        ("-1", 411),
        ("x", 411),
    ):
        assert ask({**OWN, "content-length": str(length)}, *join) == status
    assert ask({**POST, "transfer-encoding": "chunked"}, *join) == 411


@pytest.mark.parametrize("parts", [1, 3, 12])
def test_halves_of_characters_are_replaced(parts):
    texts = ["a\ud800b", "\U0001f600", r"\ud800", "\udfff"]
    body, got = json.dumps({"data": texts}).encode(), []
    size = -(-len(body) // parts)
    pieces = [body[i : i + size] for i in range(0, len(body), size)]

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def app(scope, receive, send):
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            got.append(message["body"])

    scope = {
        "type": "http",
        "path": "/",
        "method": "POST",
        "headers": [(b"host", b"localhost"), (b"content-length", b"9")],
    }
    asyncio.run(OwnHostOnly(app)(scope, receive, None))
    assert json.loads(b"".join(got)) == {"data": ["a\ufffdb", "\U0001f600", r"\ud800", "\ufffd"]}
