"""Names of media that are URLs: what is shown of them, the files they name, the form in which they are sent."""

import os
import re
from base64 import b64encode
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit, urlunsplit

# What stays as it is (https://url.spec.whatwg.org/#percent-encoded-bytes); a % does, as it is part of an encoding.
PATH_SAFE = "!$%&'()*+,-./:;=@[]_|~"
QUERY_SAFE = "!$%&()*+,-./:;=?@[\\]^_`{|}~"
NOT_IN_HOSTS = re.compile(r"[\x00-\x20#%/<>?@\\^|\x7f]")

WEB = re.compile(r"\s*https?://", re.IGNORECASE)
FILE = re.compile(r"file:(?://([^/?#]*)|(?!//))(/[^?#]*)", re.IGNORECASE)
# Up to the last @ before the path. Behind a port that is no number, a password holds a / ? or # that was not encoded.
LOGIN = re.compile(
    r"(\s*[a-z][a-z0-9+.-]*://)(?:[^/?#\\\n]*@|[^/?#\\\n@:\[]+:(?!\d*(?:[/?#\\\n]|$)).*@)", re.IGNORECASE
)


def is_web(source: str) -> bool:
    """Return whether a source is an `http(s)://` URL."""
    return WEB.match(source) is not None


def local_path(source: str) -> str:
    """Return the path that a `file://` URL of this machine names, percent-decoded; anything else as it is."""
    found = FILE.match(source)
    if not found or (found[1] or "localhost").lower() not in ("localhost", os.uname().nodename.lower()):
        return source
    try:
        return os.fsdecode(unquote_to_bytes(os.fsencode(found[2])))
    except UnicodeEncodeError:  # surrogates of a JSON text, which are in no path
        return source


def shown_name(source: str) -> str:
    """Return the name that a medium bears wherever it is shown or saved: a local path, a URL without its login."""
    name = local_path(source)
    return without_logins(name) if LOGIN.match(name) else name


def without_logins(text: str) -> str:
    """Return a text without the users and passwords of the URLs in it."""
    return LOGIN.sub(r"\1", text)


def encoded(url: str) -> str:
    """Return an `http(s)://` URL as browsers send it: percent-encoded, its host in IDNA, without login and fragment.

    Raises ValueError if it is malformed.
    """
    parts = urlsplit(url.strip())
    host = unquote(parts.hostname or "")
    if not host.isascii():
        import idna  # UTS 46, as browsers have it: Python's own codec is that of 2003

        host = idna.encode(host, uts46=True).decode()
    if not host or NOT_IN_HOSTS.search(host):
        raise ValueError("no host")
    address = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        address += f":{parts.port}"
    path = quote(parts.path.replace("\\", "/") or "/", PATH_SAFE, errors="surrogateescape")
    query = quote(parts.query, QUERY_SAFE, errors="surrogateescape")
    return urlunsplit((parts.scheme, address, path, query, ""))


def authorization(url: str) -> str | None:
    """Return the header for the user and password of a URL (HTTP's basic authorization), None if it has none."""
    login = urlsplit(url.strip()).netloc.rpartition("@")[0]
    if not login:
        return None
    user, _, password = login.partition(":")
    return f"Basic {b64encode(b':'.join(map(unquote_to_bytes, (user, password)))).decode()}"


def is_same_host(url: str, target: str) -> bool:
    """Return whether a login for one URL may be sent to the other: all but the path agrees, or https is new."""
    (scheme, host, port), there = _origin(url), _origin(target)
    return there == (scheme, host, port) or ((scheme, port), there) == (("http", 80), ("https", host, 443))


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
