"""Pipes, devices, sockets, links and forbidden files: read, or refused at once with the reason."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from media_files import grey, indices_of, write_image, write_video

from videollava_cli.errors import MediaError
from videollava_cli.media import MediaKind
from videollava_cli.reader import sources

NOBODY = 65534


@pytest.fixture
def video_bytes(tmp_path):
    return write_video(tmp_path / "clip.mp4", 8).read_bytes()


def through_a_pipe(path, content):
    """Make a named pipe, and write into it from another thread as soon as somebody reads."""

    def write():
        with suppress(BrokenPipeError):  # whoever read has seen enough
            path.write_bytes(content)

    os.mkfifo(path)
    threading.Thread(target=write, daemon=True).start()
    return path


def test_medium_from_a_pipe_keeps_the_name_of_the_pipe(tmp_path, read, video_bytes):
    path = through_a_pipe(tmp_path / "pipe", video_bytes)

    assert read(path).name == str(path)


def test_two_pipes_do_not_overwrite_each_other(tmp_path, reader, pixels, video_bytes):
    picture = write_image(tmp_path / "picture.png", grey(5)).read_bytes()
    paths = [through_a_pipe(tmp_path / "a", video_bytes), through_a_pipe(tmp_path / "b", picture)]

    found = [reader.find(str(path)) for path in paths]

    assert [reader.read(medium, pixels).kind for medium in found] == [MediaKind.VIDEO, MediaKind.IMAGE]


def test_pipe_that_falls_silent_is_given_up(tmp_path, monkeypatch, reader, video_bytes):
    monkeypatch.setattr(sources, "PIPE_SECONDS", 0.2)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with path.open("wb", buffering=0) as writing:
        writing.write(video_bytes[:1000])

        with pytest.raises(
            MediaError, match=r"^nothing came through '.*pipe' for 0\.2 s: is anything writing to it\?$"
        ):
            reader.find(str(path))
    os.close(reading)


def test_pipe_that_is_closed_unused_is_told(tmp_path, reader):
    path = through_a_pipe(tmp_path / "pipe", b"")

    with pytest.raises(MediaError, match=r"pipe' is empty: 0 bytes came through the pipe$"):
        reader.find(str(path))


def test_pipe_that_never_ends_is_bounded(tmp_path, monkeypatch, reader):
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    path = through_a_pipe(tmp_path / "pipe", bytes(100_000))

    with pytest.raises(MediaError, match="is larger than 0 GiB: save it and name the file"):
        reader.find(str(path))


def test_output_of_a_command_in_a_shell_is_a_clip(tmp_path, video_bytes):
    command = f"{sys.executable} -m videollava_cli ask -m tiny --device cpu <(cat clip.mp4) 'What happens?' --json"

    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False, timeout=120)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b'"index": 7, "seconds": 0.7' in done.stdout


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/full", "/dev/urandom"])
def test_device_is_refused_with_the_way_to_use_it(reader, source):
    with pytest.raises(MediaError) as refusal:
        reader.find(source)

    way = "save what it gives, or pipe it into `vllava ask -`"
    assert str(refusal.value) == f"{source!r} is neither a file nor a pipe: {way}"


def test_socket_is_refused(tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)  # an address of a socket holds a hundred letters
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

        with pytest.raises(MediaError, match=r"^'socket' is neither a file nor a pipe: "):
            reader.find("socket")


def test_link_that_goes_in_circles_is_told(tmp_path, reader):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")

    with pytest.raises(MediaError, match=r"circle' is a link that leads in a circle: make it anew$"):
        reader.find(str(tmp_path / "circle"))


@pytest.mark.parametrize("target", ["nowhere.mp4", "clip.mp4/x.mp4", "between"])
def test_link_that_goes_nowhere_is_told_and_suggests_neither_itself_nor_another(tmp_path, reader, target):
    write_video(tmp_path / "clip.mp4", 8)
    (tmp_path / "between").symlink_to("nowhere.mp4")
    (tmp_path / "dangling").symlink_to(target)

    with pytest.raises(
        MediaError, match=rf"dangling' is a link to '{target}', and there is no such file: make it anew$"
    ):
        reader.find(str(tmp_path / "dangling"))
    with pytest.raises(MediaError, match=r"^no such file: '.*dangline'$"):
        reader.find(str(tmp_path / "dangline"))


def test_link_to_a_video_is_a_video(tmp_path, read):
    (tmp_path / "link").symlink_to(write_video(tmp_path / "clip.mp4", 8))

    assert indices_of(read(tmp_path / "link")) == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def locked():
    """Give a file that nobody may read, to a process that is nobody: root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(b"secret")
        path.chmod(0)
        shut = Path(folder) / "shut"
        shut.mkdir(mode=0)
        (Path(folder) / "link").symlink_to(shut / "clip.mp4")
        os.chmod(folder, 0o755)  # noqa: S103 (anyone may enter, so that only the file is locked)
        if os.getuid() != 0:
            yield path
            return
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield path
        finally:
            os.setresuid(0, 0, 0)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="users cannot be changed for a while")
def test_file_that_may_not_be_read_is_told(locked, reader):
    with pytest.raises(MediaError, match=r"^cannot open '.*clip\.mp4': Permission denied$"):
        reader.find(str(locked))


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="users cannot be changed for a while")
def test_link_into_a_folder_that_may_not_be_entered_is_told(tmp_path, reader, locked):
    link = locked.with_name("link")
    with pytest.raises(
        MediaError, match=r"link' is a link to '.*shut/clip\.mp4', which cannot be opened: Permission denied$"
    ):
        reader.find(str(link))
