"""Before any request reaches a route: is it meant for this server, is it from its own page, does it know the token?

A page elsewhere can point a name of its own at 127.0.0.1 (DNS rebinding) and would then be let to read the answers; so on the loopback
device only the loopback's own names are answered. It can also send a request without reading the answer; so one that says it comes from
elsewhere is refused. No answer carries a CORS header.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .problem import Problem, shortened

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOG = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PAGES = ("/", "/docs")  # answered with a page for people, also when they have no token
_OPEN = ("/health", "/page/")  # nothing there is anybody's secret


def respond(problem: Problem) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse(problem.refusal.model_dump(), problem.status, problem.headers)


def _name(host: str) -> str:
    """The name or number in a Host header: without the port, and an IPv6 number without its brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


class Guard:
    """ASGI around ASGI: refuses, adds the headers that every answer has, and counts.

    Args:
        app: what is guarded.
        metrics: is told of every answer.
        paths: that metrics may name.
        hosts: names that the server answers to; None: to any.
        token: that a request must know; None: none is needed.
        login: the page for people without it.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, paths: Iterable[str], hosts: Collection[str] | None, token: str | None, login: bytes
    ):
        self._app, self._metrics, self._paths, self._hosts, self._token, self._login = app, metrics, tuple(paths), hosts, token, login
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, whole = time.monotonic(), 0, False
        cookie = self._cookie_for(scope)

        async def send_guarded(message: Message) -> None:
            nonlocal status, whole
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {key.lower() for key, _ in message["headers"]}
                more = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *(each for each in more if each[0] not in there), *cookie]}
            await send(message)

        try:
            refused = self._refused(scope, known=bool(cookie))
            await (refused or self._app)(scope, receive, send_guarded)
        except Exception:  # a defect: the client has been told, and here it is written down
            if not whole:
                raise
            _LOG.exception("%s %s", scope["method"], scope["path"])
        finally:
            self._metrics.answered(self._label(scope["path"]), status, time.monotonic() - began)

    def _label(self, path: str) -> str:
        return next((each for each in self._paths if path == each or each.endswith("/") and path.startswith(each) and each != "/"), "other")

    def _refused(self, scope: Scope, known: bool) -> Response | None:
        hosts = _headers(scope, b"host")
        if self._hosts is not None and (len(hosts) != 1 or _name(hosts[0]).lower() not in self._hosts):
            got, expected = ", ".join(hosts) or "none", " or ".join(self._hosts)
            return respond(Problem(421, "wrong_host", "This server does not answer to that name.", got=got, expected=expected))
        origins = _headers(scope, b"origin")
        if scope["method"] not in ("GET", "HEAD") and any(_origin_host(each) != hosts[0].lower() for each in origins if hosts):
            return respond(Problem(403, "other_origin", "A page elsewhere may not ask this server.", got=shortened(origins[0])))
        open_to_all = any(scope["path"] == each or scope["path"].startswith(each.rstrip("/") + "/") for each in _OPEN)
        if self._token is None or known or open_to_all or self._knows(scope):
            return None
        if scope["path"] in _PAGES and any("text/html" in each for each in _headers(scope, b"accept")):
            return HTMLResponse(self._login, 401, {"WWW-Authenticate": "Bearer"})
        expected = "the header Authorization: Bearer TOKEN, with the token that zoo serve printed"
        headers = {"WWW-Authenticate": "Bearer"}
        return respond(Problem(401, "no_token", "The token is missing or wrong.", expected=expected, headers=headers))

    def _knows(self, scope: Scope) -> bool:
        assert self._token is not None
        for each in _headers(scope, b"authorization"):
            scheme, _, token = each.partition(" ")
            if scheme.lower() == "bearer" and _same(token.strip(), self._token):
                return True
        return any(_same(cookie_parser(each).get(_cookie_name(scope), ""), _session(self._token)) for each in _headers(scope, b"cookie"))

    def _cookie_for(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The cookie for a browser that opens the page by /?token=..."""
        if self._token is None or scope["path"] not in _PAGES or scope["method"] != "GET":
            return []
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if not _same(given[0], self._token):
            return []
        secure = "; Secure" if scope["scheme"] == "https" else ""
        return [(b"set-cookie", f"{_cookie_name(scope)}={_session(self._token)}; Path=/; HttpOnly; SameSite=Strict{secure}".encode())]


def _origin_host(origin: str) -> str:
    """Name and port of an Origin header; "" where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())


def _session(token: str) -> str:
    """What the cookie holds: not the token itself."""
    return hashlib.sha256(b"zoo serve " + token.encode()).hexdigest()


def _cookie_name(scope: Any) -> str:
    """A cookie is for a host, whatever the port: two servers on one host have two."""
    server = scope.get("server")
    return f"zoo-{server[1]}" if server else "zoo"
