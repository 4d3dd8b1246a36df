"""A Hugging Face hub on this machine: one repository of one revision, as huggingface_hub asks for it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Repository:
    """A folder served as a repository; `asked` has the path and the range of every request for a file's content.

    `cut_after` bytes of a file the connection ends, once.
    """

    def __init__(self, folder: Path, repo_id: str, cut_after: int | None = None) -> None:
        self.folder = folder
        self.repo_id = repo_id
        self.cut_after = cut_after
        self.asked: list[tuple[str, str | None]] = []


@contextmanager
def serve(repository: Repository) -> Iterator[str]:
    """Serve a repository, and give the address for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            files = sorted(file.name for file in repository.folder.iterdir())
            if path.startswith(f"/api/models/{repository.repo_id}/tree/"):
                entries = [self._entry(name) for name in files]
                self._send(json.dumps(entries).encode(), with_body=with_body)
            elif path.startswith(f"/api/models/{repository.repo_id}"):
                siblings = [{"rfilename": name} for name in files]
                about = {"id": repository.repo_id, "sha": COMMIT, "siblings": siblings, "private": False}
                self._send(json.dumps(about).encode(), with_body=with_body)
            elif path.startswith(f"/{repository.repo_id}/resolve/") and path.rpartition("/")[2] in files:
                self._send_file(repository.folder / path.rpartition("/")[2], with_body=with_body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _entry(self, name: str) -> dict[str, object]:
            content = (repository.folder / name).read_bytes()
            return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324

        def _send_file(self, file: Path, *, with_body: bool) -> None:
            content, start = file.read_bytes(), 0
            if with_body:
                asked = self.headers.get("Range")
                repository.asked.append((file.name, asked))
                if asked:
                    start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if not with_body:
                return
            if repository.cut_after is not None and len(content) > repository.cut_after and not start:
                self.wfile.write(content[: repository.cut_after])
                repository.cut_after = None
                self.close_connection = True
                return
            self.wfile.write(content[start:])

        def _send(self, body: bytes, *, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
