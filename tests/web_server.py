"""A web server on the loopback whose answers a test gives, and which notes what it was asked."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Answer = tuple[int, Mapping[str, str], bytes]  # status, headers, body


class Asked(NamedTuple):
    """What a request said."""

    path: str
    authorization: str | None


@contextmanager
def web_server(answers: Mapping[str, Answer]) -> Iterator[tuple[str, list[Asked]]]:
    """Serve answers by path, None standing for all other paths; give the base URL and the requests so far.

    Headers are sent as UTF-8.
    """
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(Asked(self.path, self.headers["Authorization"]))
            status, headers, body = answers.get(self.path) or answers[None]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value.encode().decode("latin-1"))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 (the name that the server calls)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
