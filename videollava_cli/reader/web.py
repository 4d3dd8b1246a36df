"""Media from the web: one URL to one file, bounded in size and time; knows nothing of what the bytes mean."""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO

from videollava_cli.errors import MediaError
from videollava_cli.reader.limits import copy_bounded

TIMEOUT_SECONDS = 30.0  # without a byte from a server


def fetch_url(url: str, scratch: Path) -> Path:
    """Fetch an `http(s)://` URL into a new file in `scratch`.

    Raises:
        MediaError: If it cannot be fetched whole, is empty, or redirects to another scheme.
    """
    path = scratch / f"download-{len(list(scratch.iterdir()))}"
    opener = urllib.request.build_opener(_WebRedirects)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vllava"})  # noqa: S310 (http(s), see sources)
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as file:
            expected = response.headers.get("Content-Length")
            num_bytes = copy_bounded(response, file, url)
    except urllib.error.HTTPError as error:
        raise MediaError(f"cannot fetch {url}: the server says {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise MediaError(f"cannot fetch {url}: {getattr(error, 'reason', None) or error}") from error
    if expected is not None and expected.isdigit() and num_bytes < int(expected):
        raise MediaError(f"cannot fetch {url}: the connection ended after {num_bytes} of {expected} bytes")
    if num_bytes == 0:
        raise MediaError(f"cannot fetch {url}: the server sent 0 bytes")
    return path


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Refuse a redirect to another scheme."""
        if not newurl.lower().startswith(("http://", "https://")):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
