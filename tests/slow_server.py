"""A server whose answers wait until a test lets them go."""

import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def slow_server(path, asked=None):
    """Serve a file on the loopback, once `release` is set; give the URL and `release`.

    The event `asked`, if there is one, is set by the first request.
    """
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if asked is not None:
                asked.set()
            release.wait(120)
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked may be dead
                self.wfile.write(path.read_bytes())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{path.name}", release
    finally:
        release.set()
        server.shutdown()
        server.server_close()
