"""What is no video or image: each message says what the file is and what to do, in words that people know."""

import gzip
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from web_server import web_server

from videollava_cli.errors import MediaError
from videollava_cli.reader import web
from videollava_cli.reader.foreign import no_medium, what_is

LIBRARY_WORDS = re.compile(r"Errno|Invalid (data|argument)|ordinal|cannot identify|codec can't|<_io|urlopen|Traceback")


def zipped(*names):
    """Return a ZIP archive with members of these names."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "application/epub+zip" if name == "mimetype" else "x")
    return content.getvalue()


def sound(form, codec):
    """Return half a second of silence in a container."""
    content = io.BytesIO()
    with av.open(content, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48000)
        samples = np.zeros((1, 48000), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", 48000, stream.codec_context.frame_size or None
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return content.getvalue()


FOREIGN = {
    "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nclip.ts\n", "a playlist (M3U, HLS), which only names other files: name one"),
    "list.pls": (b"[playlist]\nFile1=clip.mp4\n", "a playlist (PLS)"),
    "list.mpd": (b'<?xml version="1.0"?>\n<!-- made -->\n<MPD xmlns="urn:mpeg:dash">', "a playlist (DASH)"),
    "list.xspf": (b'<?xml version="1.0"?><playlist version="1">', "a playlist (XML)"),
    "list.ffconcat": (b"ffconcat version 1.0\nfile a.mp4\n", "a playlist (a list of parts)"),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a document (PDF): save the pictures in it"),
    "a.svg": (b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x"><svg width="1">', "a drawing (SVG): save it as a PNG"),
    "b.svg": (b'\xef\xbb\xbf<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing (SVG)"),
    "a.zip": (zipped("clip.mp4"), "an archive (ZIP): unpack it"),
    "a.docx": (zipped("[Content_Types].xml", "word/document.xml"), "a document (Office)"),
    "a.epub": (zipped("mimetype", "a.xhtml"), "a document (EPUB)"),
    "a.rtf": (b"{\\rtf1 x}", "a document (RTF)"),
    "a.gz": (gzip.compress(b"x" * 100), "an archive (gzip)"),
    "a.html": (b"\n <!-- x --> <HTML><body>", "a web page: yt-dlp -o - URL | vllava ask - "),
    "b.html": ("<!doctype html><p>ä".encode("utf-16"), "a web page"),
    "a.txt": ("Liebes Tagebuch, heute war es schön".encode("latin-1"), "plain text: a list of media goes to"),
    "a.srt": (b"1\r\n00:00:01,000 --> 00:00:02,000\r\nHello\r\n", "subtitles: name the video"),
    "a.vtt": (b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n", "subtitles"),
    "a.json": (json.dumps({"clips": [1, 2]}).encode(), "JSON, and holds no video or image"),
    "b.json": (b"[\n  1, 2]", "JSON"),
    "a.rss": (b'<?xml version="1.0"?><rss version="2.0">', "a news feed (XML)"),
    "a.xml": (b"<note>x</note>", "XML"),
    "a.wav": (sound("wav", "pcm_s16le"), "sound alone (WAV), and there is nothing to see"),
    "a.flac": (sound("flac", "flac"), "sound alone (FLAC)"),
    "a.mp3": (sound("mp3", "libmp3lame"), "sound alone (MP3)"),
    "a.aac": (sound("adts", "aac"), "sound alone (AAC)"),
    "a.aiff": (sound("aiff", "pcm_s16be"), "sound alone (AIFF)"),
    "a.m4v": (b"\0\0\1\xb0\1\0\0\1\xb5\x89\x13", "a video stream without a container: put it into one, as"),
    "a.obu": (b"\x12\0\n\n\0\0\0", "a video stream without a container: put it into one, as `ffmpeg"),
    "a.jxl": (b"\xff\x0a\xfa\x1f", "a picture in a format that is not read (JPEG XL)"),
    "a.npy": (b"\x93NUMPY\1\0", "a file of numbers"),
    "pointer.mp4": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "a placeholder of Git LFS: `git lfs",
    ),
    "zeros.mp4": (bytes(5000), "a file that begins with zeros alone: was its download"),
    "a.bin": (bytes(range(256)), "damaged, or in a format that is not read; if a player shows it, `ffmpeg -i"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_file_is_told_for_what_it_holds_whatever_its_name(tmp_path, reader, name):
    content, what = FOREIGN[name]
    for path in (tmp_path / name, tmp_path / "clip.mp4"):
        path.write_bytes(content)
        with pytest.raises(MediaError) as refusal:
            reader.find(str(path))

        assert str(refusal.value).startswith(f"{str(path)!r} is no video or image that can be read: it is {what}")
        assert not LIBRARY_WORDS.search(str(refusal.value))


@pytest.mark.parametrize(("form", "codec"), [("ogg", "libopus"), ("ipod", "aac"), ("matroska", "pcm_s16le")])
def test_container_with_sound_alone_is_told(tmp_path, reader, form, codec):
    path = tmp_path / "clip"
    path.write_bytes(sound(form, codec))

    with pytest.raises(MediaError, match=r"clip' holds no video, only audio, and there is nothing to see$"):
        reader.find(str(path))


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "photo.gif", "photo.webp", "photo.bmp", "photo.tif"])
def test_damaged_picture_is_told_without_words_of_a_library(tmp_path, read, name):
    from PIL import Image

    path = tmp_path / name
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    whole = path.read_bytes()
    for num_bytes in (len(whole) // 2, 40, 12):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(MediaError, match=r"photo.*(damaged|cut off|no video or image)") as refusal:
            read(path)

        assert not LIBRARY_WORDS.search(str(refusal.value))


@pytest.mark.parametrize(
    ("content_type", "body", "what"),
    [
        (
            "text/html; charset=utf-8",
            b"<!DOCTYPE html><title>A video</title>",
            "a web page: yt-dlp -o - {} | vllava ask - ",
        ),
        ("text/html", b"Please log in", "a web page: yt-dlp -o - {} | vllava ask - "),
        ("video/mp4", b"<html><body>Please log in</body></html>", "a web page: yt-dlp -o - {} | vllava ask - "),
        ("application/json", b'{"error": "gone"}', "JSON"),
        ("text/plain", b"gone", "plain text"),
        ("application/rss+xml", b'<?xml version="1.0"?><rss version="2.0"/>', "a news feed (XML)"),
        ("application/vnd.apple.mpegurl", b"#EXTM3U\n", "a playlist (M3U, HLS)"),
        ("application/pdf", b"%PDF-1.4\n", "a document (PDF)"),
    ],
)
def test_address_of_what_is_no_medium_is_told(reader, content_type, body, what):
    with web_server({None: (200, {"Content-Type": content_type}, body)}) as (base, _):
        url = f"{base}/watch?v=x&t=1"
        with pytest.raises(MediaError) as refusal:
            reader.find(url)

    assert str(refusal.value).startswith(
        f"{url!r} is no video or image that can be read: it is {what.format(repr(url))}"
    )


def test_hostile_page_is_looked_at_quickly():
    began = time.perf_counter()

    what_is(b"<!---->" * 600)
    what_is(b"<!--" * 1000)
    what_is(b"<?xml" * 800)

    assert time.perf_counter() - began < 1


def test_line_that_helps_names_the_address_of_a_web_page_only():
    assert no_medium("https://youtu.be/x", what_is(b"<html>")).endswith(
        'a web page: yt-dlp -o - https://youtu.be/x | vllava ask - "..."'
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_network_errors_are_told_in_our_words(reader, scheme):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    told = {
        f"{scheme}://no-such-host.invalid/a": "its host cannot be found: check the address, and the network",
        f"{scheme}://127.0.0.1:{port}/a": "nothing answers there: check the address, and whether the server runs",
        f"{scheme}://127.0.0.1:99999/a": "the address is malformed",
        f"{scheme}:///a": "the address is malformed",
    }
    for url, problem in told.items():
        with pytest.raises(MediaError, match=f"^cannot fetch {url}: {problem}") as refusal:
            reader.find(url)
        assert not LIBRARY_WORDS.search(str(refusal.value))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"", "the server ended the connection: try again"),
        (b"220 mail.example ESMTP\r\n", "the answer is broken off, or is not that of a web server: check the address"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the answer is broken off, or is not that"),
        (None, "no answer comes: check the network, and try again"),
    ],
)
def test_server_that_says_something_else_or_nothing_is_told(reader, monkeypatch, said, problem):
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            connection.recv(1000)
            if said is None:
                time.sleep(1)
            connection.sendall(said or b"")
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        with pytest.raises(MediaError, match=f"^cannot fetch {url}: {problem}"):
            reader.find(url)


def test_server_without_tls_is_told(reader):
    with (
        web_server({}) as (base, _),
        pytest.raises(MediaError, match=r"no secure connection comes about: does it speak https there"),
    ):
        reader.find(f"{base.replace('http', 'https')}/a")


HUB = """
import sys, time
from in_process import vllava
began = time.perf_counter()
done = vllava(*sys.argv[1:])
print(time.perf_counter() - began, done.status, done.stderr, sep="\\n")
"""


def at_a_hub(endpoint, home, *arguments):
    """Run a command in a process of its own, since the hub's client reads its endpoint when it is imported."""
    here = Path(__file__).parent
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(here)}
    command = [sys.executable, "-c", HUB, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=120, cwd=here.parent
    )
    seconds, status, *lines = done.stdout.splitlines()
    return float(seconds), int(status), [line for line in (*lines, *done.stderr.splitlines()) if line]


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "hf://datasets/nobody/nothing/clip.mp4", "What?"),
        ("frames", "-m", "tiny", "hf://nobody/nothing@main/clip.mp4"),
        ("ask", "-m", "nobody/nothing", "examples/triangle.jpg", "What?"),
        ("ask", "--offline", "hf://datasets/nobody/nothing/clip.mp4", "What?"),
    ],
)
def test_hub_that_cannot_be_reached_is_told_in_one_line_at_once(tmp_path, arguments):
    seconds, status, lines = at_a_hub("http://127.0.0.1:9", tmp_path, *arguments)

    assert (status in (3, 5), len(lines), seconds < 5) == (True, 1, True), (seconds, lines)
    assert "not in the local cache" in lines[0]
    assert not LIBRARY_WORDS.search(lines[0])


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"X-Error-Code": "RepoNotFound"}, "no dataset 'a/b' on the hub, or no access to it: check its name"),
        ({"X-Error-Code": "EntryNotFound"}, "'a/b' has no such file: check its path on the hub"),
        ({"X-Error-Code": "RevisionNotFound"}, "'a/b' has no revision 'c': check its name on the hub"),
        ({"X-Error-Code": "GatedRepo"}, "no access to 'a/b': accept its terms on the hub, then `hf auth login`"),
    ],
)
def test_refusal_of_the_hub_is_told_in_one_line(tmp_path, headers, problem):
    with web_server({None: (404, headers, b"")}) as (base, _):
        _, status, lines = at_a_hub(base, tmp_path, "ask", "hf://datasets/a/b@c/d.mp4", "What?")

    assert (status, len(lines)) == (3, 1)
    assert f"cannot fetch hf://datasets/a/b@c/d.mp4: {problem}" in lines[0]


def test_download_that_does_not_fit_on_the_disk_is_told(reader):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with web_server({None: (200, {}, bytes(500_000))}) as (base, _):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(MediaError, match=r"^cannot copy http://.*: File too large; point TMPDIR to a disk"):
                reader.find(f"{base}/a")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
