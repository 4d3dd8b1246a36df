"""Nothing but the named file is opened: no file that a playlist names, no server, no name that is read as a command."""

import ctypes
import os
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer

import pytest
from media_files import Recipe, indices_of, write_video

from videollava_cli.errors import MediaError
from videollava_cli.reader import Reader
from videollava_cli.settings import Settings

IN_OPEN, IN_CLOSE = 0x20, 0x18  # inotify(7)
HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="0" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>"
)
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\na=control:{target}\r\n"
    "m=video 5000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)
PLAYLISTS = {
    "hls": HLS,
    "master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": DASH,
    "sdp": SDP,
    "smil": '<smil><body><video src="{target}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    "m3u": "{target}\n",
    "concat": "concat:{target}|{target}",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
}
NAMES = ["list.mp4", "list.m3u8", "list.ffconcat", "list.sdp", "list.mpd", "list"]


class Watch:
    """Count how often files are opened, by whatever code."""

    def __init__(self, *paths, events=IN_OPEN):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        for path in paths:
            assert libc.inotify_add_watch(self.descriptor, os.fsencode(path), events) > 0

    def count(self):
        """Return the number of times since the last look."""
        try:
            events = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return 0
        return len(events) // struct.calcsize("iIII")

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        os.close(self.descriptor)


@pytest.fixture
def secrets(tmp_path):
    """Write videos that no one names on the command line."""
    (tmp_path / "folder").mkdir()
    return [write_video(tmp_path / "folder" / f"secret.{suffix}", 8) for suffix in ("mp4", "ts")]


@pytest.fixture
def server():
    """Start a web server on the loopback, which counts what connects to it and what it is asked for."""
    hits = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    class Server(HTTPServer):
        def server_bind(self):
            TCPServer.server_bind(self)  # HTTPServer's own looks its name up in the network
            self.server_name, self.server_port = "localhost", self.server_address[1]

        def verify_request(self, request, client_address):
            hits.append(client_address)
            return True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", hits
    server.shutdown()
    server.server_close()


linux = pytest.mark.skipif(sys.platform != "linux", reason="watches files by inotify")


@linux
def test_watch_sees_a_file_being_opened(secrets):
    with Watch(*secrets) as watch:
        secrets[0].read_bytes()

        assert (watch.count(), watch.count()) == (1, 0)


@linux
def test_clip_is_opened_once_by_us_and_once_by_ffmpeg_to_be_found_and_read(tmp_path, pixels):
    path = write_video(tmp_path / "clip.mp4", 60, Recipe(options={"g": "6", "x264-params": "scenecut=0"}))

    with Watch(path, events=IN_OPEN | IN_CLOSE) as watch, Reader(Settings(), num_threads=1) as reader:
        file = reader.find(str(path))
        assert watch.count() == 3  # we open it, for its first bytes and its boxes, and close it; FFmpeg opens it
        clip = reader.read(file, pixels)
        assert watch.count() == 1  # FFmpeg closes it

    assert indices_of(clip) == [0, 7, 15, 22, 30, 37, 45, 52]


@linux
def test_many_clips_that_were_found_keep_few_files_open_and_are_read_as_ever(tmp_path, reader, pixels):
    write_video(tmp_path / "clip.mp4", 8)
    before = len(os.listdir("/proc/self/fd"))

    files = [reader.find(str(tmp_path / "clip.mp4")) for _ in range(100)]

    assert len(os.listdir("/proc/self/fd")) <= before + 16
    assert indices_of(reader.read(files[0], pixels)) == indices_of(reader.read(files[-1], pixels)) == list(range(8))
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


@linux
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", PLAYLISTS)
def test_playlist_does_not_open_another_file(tmp_path, secrets, reader, form, name):
    path = tmp_path / name

    with Watch(*secrets) as watch:
        for target in (*secrets, *(f"file:{secret}" for secret in secrets), *(f"folder/{s.name}" for s in secrets)):
            path.write_text(PLAYLISTS[form].format(target=target))

            with pytest.raises(MediaError, match="is no video or image that can be read"):
                reader.find(str(path))

        assert watch.count() == 0


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list.sdp", "list.mpd"])
@pytest.mark.parametrize("form", PLAYLISTS)
def test_playlist_does_not_reach_the_network(tmp_path, server, reader, form, name):
    address, hits = server
    path = tmp_path / name
    path.write_text(PLAYLISTS[form].format(target=f"{address}/secret.ts"))

    with pytest.raises(MediaError, match="is no video or image that can be read"):
        reader.find(str(path))

    assert hits == []


def test_playlist_ends_the_command_with_one_line_and_3(tmp_path, server, secrets):
    address, hits = server
    path = tmp_path / "list.m3u8"
    path.write_text(HLS.format(target=f"{address}/secret.ts"))

    done = subprocess.run(
        [sys.executable, "-m", "videollava_cli", "ask", path, "What happens?"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout, hits) == (3, "", [])
    assert done.stderr.startswith(f"vllava: error: {str(path)!r} is no video or image that can be read")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def others(tmp_path, monkeypatch):
    """Work in a folder with two clips that odd names could mean."""
    monkeypatch.chdir(tmp_path)
    return [write_video(tmp_path / name, 1) for name in ("a.mp4", "b.mp4", "img001.png.mp4")]


ODD_NAMES = [
    "concat:a.mp4|b.mp4",
    "concat:a.mp4",
    "subfile,,start,0,end,0,,:a.mp4",
    "file:a.mp4",
    "data:a.mp4",
    "pipe:0",
    "cache:a.mp4",
    "async:a.mp4",
    "http:a.mp4",
    "tcp:127.0.0.1",
    "a:b.mp4",
    "img%03d.png.mp4",
    "img*.png.mp4",
    "-i.mp4",
    "\x1b[31mred.mp4",
    "line\nbreak.mp4",
    "50% off.mp4",
    "two words.mp4",
    'quote\'s "name".mp4',
    "Käfer 雨.mp4",
    "#1?x=y&z.mp4",
    "no suffix",
    "x" * 244,
    os.fsdecode(b"caf\xe9.mp4"),
]


@linux
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name_of_a_file_means_that_file_only(tmp_path, others, read, name):
    path = write_video(tmp_path / "plain.mp4", 8).rename(tmp_path / name)

    with Watch(*others) as watch:
        assert indices_of(read(name)) == indices_of(read(path)) == [0, 1, 2, 3, 4, 5, 6, 7]

        assert watch.count() == 0


@linux
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name_of_no_file_means_none(others, reader, name):
    with Watch(*others) as watch:
        with pytest.raises(MediaError, match=r"^no such file: "):
            reader.find(name)

        assert watch.count() == 0
