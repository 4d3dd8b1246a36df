"""Where media come from: disk, web, hub; each refusal in one line that says what to do."""

import os
import resource
import tempfile
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from media_files import grey, indices_of, write_image, write_video
from web_server import web_server

from videollava_cli.errors import MediaError
from videollava_cli.media import MediaKind
from videollava_cli.reader import Reader, sources
from videollava_cli.settings import Settings


@pytest.fixture
def serve():
    """Start a web server on the loopback that gives the answers of a table: path -> status, headers, body."""
    with ExitStack() as stack:

        def start(**table):
            answers = {f"/{name.replace('__', '.')}": answer for name, answer in table.items()}
            return stack.enter_context(web_server(answers))[0]

        yield start


@pytest.fixture
def video_bytes(tmp_path):
    return write_video(tmp_path / "served.mp4", 8).read_bytes()


def test_missing_file_is_told_with_the_name_that_looks_alike(tmp_path, reader):
    path = write_video(tmp_path / "holiday.mp4", 1)

    with pytest.raises(MediaError) as refusal:
        reader.find(str(tmp_path / "holyday.mp4"))

    assert str(refusal.value) == f"no such file: {str(tmp_path / 'holyday.mp4')!r}; did you mean {str(path)!r}?"


def test_missing_file_that_looks_like_no_other_is_told_without_a_suggestion(tmp_path, reader):
    write_video(tmp_path / "holiday.mp4", 1)

    with pytest.raises(MediaError, match=r"no such file: '.*/zebra\.avi'$"):
        reader.find(str(tmp_path / "zebra.avi"))


def test_missing_file_in_a_missing_folder_is_told(reader):
    with pytest.raises(MediaError, match=r"^no such file: 'nowhere/clip\.mp4'$"):
        reader.find("nowhere/clip.mp4")


def test_folder_is_refused(tmp_path, reader):
    with pytest.raises(
        MediaError,
        match=f"^{str(tmp_path)!r} is a folder: name the files in it, or ask about all of them by vllava batch$",
    ):
        reader.find(str(tmp_path))


def test_empty_file_is_refused(tmp_path, reader):
    path = tmp_path / "clip.mp4"
    path.touch()

    with pytest.raises(MediaError, match=r"clip\.mp4' is empty: 0 bytes$"):
        reader.find(str(path))


def test_pipe_is_read_to_its_end(tmp_path, read, video_bytes):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(video_bytes,), daemon=True)
    writer.start()

    clip = read(path)

    writer.join(10)
    assert indices_of(clip) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_pipe_through_which_nothing_comes_is_given_up(tmp_path, monkeypatch, reader):
    monkeypatch.setattr(sources, "PIPE_SECONDS", 0.2)
    path = tmp_path / "fifo"
    os.mkfifo(path)

    with pytest.raises(MediaError, match=r"nothing came through .*fifo' for 0\.2 s: is anything writing to it\?"):
        reader.find(str(path))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_device_is_refused(reader, device):
    with pytest.raises(MediaError, match=f"'{device}' is neither a file nor a pipe"):
        reader.find(device)


def test_empty_name_is_refused(reader):
    with pytest.raises(MediaError, match=r"^the name of a medium is empty: give a path, a URL, or - for stdin$"):
        reader.find("")


@pytest.mark.parametrize("source", ["nul\0byte", "x" * 5000, "~nobody-here/clip.mp4"])
def test_name_that_no_file_can_have_is_refused(reader, source):
    with pytest.raises(MediaError, match=r"^(no such file|cannot open)"):
        reader.find(source)


def test_scheme_that_is_none_of_ours_is_only_a_name(reader):
    with pytest.raises(MediaError, match=r"no such file: 'ftp://127.0.0.1/clip.mp4'; the URLs that work"):
        reader.find("ftp://127.0.0.1/clip.mp4")


def test_relative_name_is_found_in_the_working_folder(tmp_path, monkeypatch, read):
    write_video(tmp_path / "clip.mp4", 8)
    monkeypatch.chdir(tmp_path)

    assert read("clip.mp4").name == "clip.mp4"


def test_tilde_is_the_home_folder(tmp_path, monkeypatch, read):
    write_video(tmp_path / "clip.mp4", 8)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert read("~/clip.mp4").kind is MediaKind.VIDEO


def test_video_from_the_web_is_read_whatever_its_address_says(serve, read, video_bytes):
    base = serve(picture__jpg=(200, {"Content-Type": "image/jpeg"}, video_bytes))

    clip = read(f"{base}/picture.jpg")

    assert (clip.name, indices_of(clip)) == (f"{base}/picture.jpg", [0, 1, 2, 3, 4, 5, 6, 7])


def test_two_downloads_do_not_overwrite_each_other(serve, reader, pixels, video_bytes, tmp_path):
    picture = write_image(tmp_path / "picture.png", grey(5)).read_bytes()
    base = serve(a=(200, {}, video_bytes), b=(200, {}, picture))

    found = [reader.find(f"{base}/{name}") for name in "ab"]

    assert [reader.read(medium, pixels).kind for medium in found] == [MediaKind.VIDEO, MediaKind.IMAGE]


def test_redirect_on_the_web_is_followed(serve, read, video_bytes):
    base = serve(old=(302, {"Location": "/new"}, b""), new=(200, {}, video_bytes))

    assert indices_of(read(f"{base}/old")) == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/clip.mp4", "gopher://127.0.0.1/"])
def test_redirect_to_another_scheme_is_refused(serve, reader, target):
    base = serve(clip__mp4=(302, {"Location": target}, b""))

    with pytest.raises(MediaError, match=f"cannot fetch {base}/clip.mp4: .*{target}"):
        reader.find(f"{base}/clip.mp4")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "401 Unauthorized: it wants a login: write it as in https://USER:PASSWORD@HOST/PATH"),
        (403, "403 Forbidden: the address needs a login, or has expired"),
        (404, "404 Not Found: check the address"),
        (429, "429 Too Many Requests: it has had too many requests: wait, then try again"),
        (500, "500 Internal Server Error: try again later"),
        (599, "599: try again later"),
    ],
)
def test_refusal_of_the_server_is_told(serve, reader, status, reason):
    base = serve(clip__mp4=(status, {}, b"sorry"))

    with pytest.raises(MediaError, match=f"^cannot fetch {base}/clip.mp4: the server says {reason}"):
        reader.find(f"{base}/clip.mp4")


def test_body_shorter_than_promised_is_refused_with_both_numbers(serve, reader):
    base = serve(clip__mp4=(200, {"Content-Length": "1000"}, b"x" * 10))

    with pytest.raises(MediaError, match=r"the connection ended after 10 of 1000 bytes$"):
        reader.find(f"{base}/clip.mp4")


def test_empty_body_is_refused(serve, reader):
    base = serve(clip__mp4=(200, {}, b""))

    with pytest.raises(MediaError, match=r"the server sent 0 bytes$"):
        reader.find(f"{base}/clip.mp4")


def test_playlist_from_the_web_cannot_name_a_file_of_this_disk(serve, reader, tmp_path):
    secret = write_video(tmp_path / "secret.mp4", 8)
    base = serve(list__m3u8=(200, {}, f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()))

    with pytest.raises(MediaError, match="is no video or image that can be read"):
        reader.find(f"{base}/list.m3u8")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/clip.mp4", "http://", "https://[::/x", "http://a b/c", "http:///x"]
)
def test_address_where_nothing_answers_is_refused(reader, address):
    with pytest.raises(MediaError, match=r"^cannot fetch "):
        reader.find(address)


def test_web_address_is_refused_offline():
    with Reader(Settings(offline=True)) as reader, pytest.raises(MediaError) as refusal:
        reader.find("https://example.org/clip.mp4")

    assert str(refusal.value) == (
        "offline, so https://example.org/clip.mp4 cannot be fetched: leave --offline out or name a local file"
    )


@pytest.mark.parametrize(
    "source",
    [
        "hf://",
        "hf://owner",
        "hf://owner/repo",
        "hf://owner/repo/",
        "hf://datasets",
        "hf://datasets/a/b",
        "hf://a//c",
        "HF://a/b",
    ],
)
def test_malformed_hub_name_is_refused_with_the_form_it_has(reader, source):
    with pytest.raises(MediaError) as refusal:
        reader.find(source)

    assert str(refusal.value) == f"{source!r} is no file on the hub: write hf://[datasets/]owner/repo/path"


@pytest.mark.parametrize(
    "source",
    ["hf://nobody/nothing/clip.mp4", "HF://datasets/nobody/nothing@main/a/clip.mp4", "hf://no body/x/clip.mp4"],
)
def test_hub_file_that_is_not_on_this_disk_is_refused_offline(source):
    with Reader(Settings(offline=True)) as reader, pytest.raises(MediaError, match=f"^cannot fetch {source}: "):
        reader.find(source)


def test_what_was_fetched_goes_away_with_the_reader(serve, video_bytes):
    base = serve(clip__mp4=(200, {}, video_bytes))

    with Reader(Settings()) as reader:
        path = reader.find(f"{base}/clip.mp4").path
        size = path.stat().st_size

    assert size == len(video_bytes)
    assert not path.parent.exists()


def test_stdin_that_cannot_be_read_is_told(tmp_path, monkeypatch, reader):
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    with open(descriptor, "rb", closefd=True) as file:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file, isatty=lambda: False))

        with pytest.raises(MediaError, match=r"^cannot read stdin: Bad file descriptor; pipe a file into it$"):
            reader.find("-")


def test_stdin_that_does_not_fit_on_the_disk_is_told(tmp_path, monkeypatch, reader):
    path = tmp_path / "large"
    path.write_bytes(b"x" * 500_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file, isatty=lambda: False))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(MediaError, match=r"^cannot copy stdin to '.*vllava-.*': File too large; point TMPDIR"):
                reader.find("-")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_file_of_this_disk_is_read_where_nothing_can_be_fetched(tmp_path, monkeypatch, read):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    assert read(write_video(tmp_path / "clip.mp4", 8)).kind is MediaKind.VIDEO


def test_want_of_a_temporary_folder_is_told(serve, tmp_path, monkeypatch, reader, video_bytes):
    base = serve(clip__mp4=(200, {}, video_bytes))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(MediaError) as refusal:
        reader.find(f"{base}/clip.mp4")

    reason = "No such file or directory; point TMPDIR to one with space"
    assert str(refusal.value) == f"cannot make a temporary folder: {reason}"
