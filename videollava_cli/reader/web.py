"""The network: opening http(s) URLs, and what goes wrong there in words that people know."""

import errno
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, InvalidURL
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from videollava_cli.errors import MediaError
from videollava_cli.reader.urls import authorization, encoded, is_same_host, shown_name, without_logins

TIMEOUT_SECONDS = 30.0  # without a byte from a server
MALFORMED = "the address is malformed: in a user or password write / ? # as %2F %3F %23"
NEEDS_LOGIN = "it wants a login: write it as in https://USER:PASSWORD@HOST/PATH (vllava saves no passwords)"
ADVICE = {
    HTTPStatus.UNAUTHORIZED: NEEDS_LOGIN,
    HTTPStatus.FORBIDDEN: "the address needs a login, or has expired",
    HTTPStatus.NOT_FOUND: "check the address",
    HTTPStatus.GONE: "check the address",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "the proxy wants a login",
    HTTPStatus.TOO_MANY_REQUESTS: "it has had too many requests: wait, then try again",
}
# By OpenSSL's numbers, X509_V_ERR_*.
CERTIFICATES = {
    10: "it has expired",
    18: "it is self-signed",
    19: "it is self-signed",
    62: "it is for another host",
    64: "it is for another host",
}
UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and sends a login on to the same host only."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> object:
        target = headers.get("Location") or ""
        try:
            scheme = urlsplit(urljoin(req.full_url, target)).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise urllib.error.URLError(
                _RedirectError(f"it redirects to {without_logins(target)}, which is no web address")
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        target = encoded(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, target)
        login = authorization(newurl)
        if login is None and is_same_host(req.full_url, target):
            login = req.unredirected_hdrs.get("Authorization")
        if request is not None and login is not None:
            request.add_unredirected_header("Authorization", login)
        return request


class _RedirectError(OSError):
    """A redirect that is not followed; the message says why."""


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open an `http(s)://` URL; the response has `read` and `headers`. Raises MediaError, here and in its block."""
    name, login = shown_name(url), None
    try:
        request = urllib.request.Request(encoded(url), headers={"User-Agent": "vllava"})  # noqa: S310 (http(s) only)
        login = authorization(url)
    except ValueError as error:
        raise MediaError(f"cannot fetch {name}: {MALFORMED}") from error
    if login is not None:
        request.add_unredirected_header("Authorization", login)
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        has_login = login is not None and is_same_host(request.full_url, error.url)
        raise MediaError(f"cannot fetch {name}: {status_problem(error.code, has_login=has_login)}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise MediaError(f"cannot fetch {name}: {network_problem(error)}") from error


def status_problem(code: int, *, has_login: bool = False) -> str:
    """Say what a server's status means for the user."""
    if code in (301, 302, 303, 307, 308):
        return "its redirects lead nowhere"
    try:
        status = f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        status = str(code)
    advice = ADVICE.get(code) or ("try again later" if code >= 500 else "")  # type: ignore[call-overload]
    if has_login and code == HTTPStatus.UNAUTHORIZED:
        advice = "it does not accept this user and password"
    return f"the server says {status}{advice and f': {advice}'}"


def network_problem(error: BaseException) -> str:
    """Say why a server could not be reached, or did not send what was asked for."""
    return next(filter(None, map(_problem, _causes(error))), "the connection failed: try again")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that led to an error, the first of them first."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
    if cause is not None:
        yield from _causes(cause)
    yield error


def _problem(error: BaseException) -> str | None:
    match error:
        case _RedirectError():
            return str(error)
        case socket.gaierror():
            return "its host cannot be found: check the address, and the network"
        case ssl.SSLCertVerificationError():
            reason = CERTIFICATES.get(error.verify_code, "nobody known vouches for it")
            return f"its certificate is not trusted: {reason}; SSL_CERT_FILE names certificates to trust"
        case ssl.SSLError():
            return "no secure connection comes about: does it speak https there, or only http?"
        case TimeoutError():
            return "no answer comes: check the network, and try again"
        case ConnectionRefusedError():
            return "nothing answers there: check the address, and whether the server runs"
        case ConnectionError():
            return "the server ended the connection: try again"
        case InvalidURL():
            return MALFORMED
        case HTTPException() | ValueError():
            return "the answer is broken off, or is not that of a web server: check the address"
        case OSError() if error.errno in UNREACHABLE:
            return "it cannot be reached: check the network"
        case OSError() if str(error).startswith("Tunnel connection failed"):
            return "the proxy refuses the connection"
        case _:
            return None
