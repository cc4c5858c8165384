"""Who is let in: by the server's own names, from its own page, with the token."""

import socket

import pytest

from zoo.serve.server import is_loopback

from .conftest import running
from .test_app import refused

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(joint):
    with running(joint, token=TOKEN, hosts=None) as server:
        yield server


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "169.254.1.1"]
)
def test_another_name_for_this_machine(searching, host):
    """DNS rebinding: a name that somebody else pointed here."""
    for path in ("/", "/v1/about", "/health", "/page/page.js"):
        refused(searching.client.get(path, headers={"Host": host}), 421, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_its_own_names(searching, host):
    assert searching.client.get("/v1/about", headers={"Host": host}).status_code == 200


def test_two_names_at_once(searching):
    host, _, port = searching.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(b"GET /v1/about HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert line.recv(20).split()[1] in (b"400", b"421")


def test_pages_elsewhere_may_not_ask(searching):
    for origin in ("http://evil.example", "null", "http://localhost:1", "https://[", "file://"):
        refused(searching.client.post("/v1/search", json={"text": "dark"}, headers={"Origin": origin}), 403, "other_origin")
    own = searching.client.post("/v1/search", json={"text": "dark"}, headers={"Origin": searching.url})
    assert own.status_code == 200
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (own, searching.client.get("/v1/about", headers=asked), searching.client.options("/v1/search", headers=asked)):
        assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/about", "/nowhere", "/page/page.js", "/v1/pictures/eval/0"])
def test_headers_of_every_answer(searching, path):
    headers = searching.client.get(path).headers
    assert (
        headers["content-security-policy"].startswith("default-src 'self'; ")
        and "frame-ancestors 'none'" in headers["content-security-policy"]
    )
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer" and "server" not in headers


@pytest.mark.parametrize("path", ["/v1/about", "/openapi.json", "/metrics", "/docs", "/", "/nowhere", "/v1/pictures/eval/0"])
def test_nothing_without_the_token(guarded, path):
    answer = guarded.client.get(path)
    refused(answer, 401, "no_token")
    assert answer.headers["www-authenticate"] == "Bearer" and "set-cookie" not in answer.headers
    assert guarded.client.get(path, headers=BEARER).status_code == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, b"Bearer \xff\xfe"],
)
def test_a_wrong_token(guarded, header):
    for sent in ({"Authorization": header}, {"Cookie": f"zoo-{guarded.url.rpartition(':')[2]}={TOKEN}"}):  # the cookie is not the token
        refused(guarded.client.post("/v1/embed", json={"text": "dark"}, headers=sent), 401, "no_token")


def test_health_needs_none(guarded):
    assert guarded.alive() and guarded.client.get("/health/ready").status_code == 200
    assert guarded.client.get("/healthy").status_code == 401


def test_a_browser_gets_a_cookie(guarded):
    html = {"Accept": "text/html"}
    login = guarded.client.get("/", headers=html)
    assert login.status_code == 401 and 'type="password"' in login.text
    assert guarded.client.get("/?token=wrong", headers=html).status_code == 401
    answer = guarded.client.get("/", params={"token": TOKEN}, headers=html)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    with_cookie = {"Cookie": cookie.partition(";")[0]}
    guarded.client.cookies.clear()
    assert guarded.client.get("/v1/about", headers=with_cookie).status_code == 200
    assert guarded.client.get("/v1/about").status_code == 401
    assert guarded.client.get("/v1/about", params={"token": TOKEN}).status_code == 401  # only the page is opened that way


def test_the_token_is_in_the_openapi_schema(guarded, searching):
    assert guarded.client.get("/openapi.json", headers=BEARER).json()["components"]["securitySchemes"]
    assert "securitySchemes" not in searching.client.get("/openapi.json").json()["components"]


def test_no_websockets(searching):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x" * 22 + "=="}
    assert searching.client.get("/v1/about", headers=headers).status_code in (200, 400, 403)
    assert searching.alive()


def test_which_addresses_are_this_machines():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.1", "example.org", "")))
