"""What a file is that is neither video nor image, by its content, and what to do with it."""

import codecs
import re
import shlex
from pathlib import Path

from videollava_cli.reader.urls import is_web

HEAD_BYTES = 4096

WEB_PAGE = "a web page"
SOUND = "sound alone ({}), and there is nothing to see"
PICTURE = "a picture in a format that is not read ({}): convert it to PNG or JPEG"
DOCUMENT = "a document ({}): save the pictures in it, or its pages as pictures"
ARCHIVE = "an archive ({}): unpack it and name the files in it"
PLAYLIST = "a playlist ({}), which only names other files: name one of those"
BARE_STREAM = "a video stream without a container: put it into one, as `ffmpeg -i IN -c copy OUT.mkv` does"
DATA = "{}, and holds no video or image: is it the right file?"

HTML = "html|head|body|script|iframe|h1|div|font|table|a|style|title|b|br|p|meta|link"  # as browsers sniff it
# The first that matches counts.
BINARY = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (rb"RIFF....WAVE|RF64....WAVE", SOUND.format("WAV")),
        (rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd][\x00-\xef]", SOUND.format("MP3")),
        (rb"fLaC", SOUND.format("FLAC")),
        (rb"FORM....AIF[FC]", SOUND.format("AIFF")),
        (rb"\xff[\xf0\xf1\xf8\xf9]", SOUND.format("AAC")),
        (rb"MThd", SOUND.format("MIDI")),
        (rb"#!AMR", SOUND.format("AMR")),
        (rb"caff\x00", SOUND.format("CAF")),
        (rb"\.snd", SOUND.format("AU")),
        (rb"\x0b\x77|\x7f\xfe\x80\x01", SOUND.format("AC-3 or DTS")),
        (rb"wvPK|MAC ", SOUND.format("WavPack or Monkey's Audio")),
        (rb".{0,1020}%PDF-", DOCUMENT.format("PDF")),
        (rb"PK\x03\x04.*(?:\[Content_Types\]\.xml|vnd\.oasis\.opendocument)", DOCUMENT.format("Office")),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", DOCUMENT.format("Office")),
        (rb"PK\x03\x04.*application/epub\+zip", DOCUMENT.format("EPUB")),
        (rb"\{\\rtf", DOCUMENT.format("RTF")),
        (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", ARCHIVE.format("ZIP")),
        (rb"\x1f\x8b", ARCHIVE.format("gzip")),
        (rb"BZh\d", ARCHIVE.format("bzip2")),
        (rb"\xfd7zXZ\x00", ARCHIVE.format("xz")),
        (rb"\x28\xb5\x2f\xfd", ARCHIVE.format("Zstandard")),
        (rb"7z\xbc\xaf\x27\x1c", ARCHIVE.format("7-Zip")),
        (rb"Rar!", ARCHIVE.format("RAR")),
        (rb".{257}ustar", ARCHIVE.format("tar")),
        (rb"\x00?\x00\x00\x01[\x00\x20\xb0\xb5]|\x12\x00\x0a", BARE_STREAM),  # MPEG-4 part 2, AV1
        (rb"gimp xcf", PICTURE.format("GIMP")),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", PICTURE.format("JPEG XL")),
        (rb"\x76\x2f\x31\x01", PICTURE.format("OpenEXR")),
        (rb"#\?RADIANCE", PICTURE.format("Radiance")),
        (rb"farbfeld", PICTURE.format("farbfeld")),
        (rb"SIMPLE  =", PICTURE.format("FITS")),
        (rb".{128}DICM", PICTURE.format("DICOM")),
        (rb"%!PS|\xc5\xd0\xd3\xc6", PICTURE.format("PostScript")),
        (rb"[FCZ]WS[\x03-\x30]....", DATA.format("a Flash animation")),
        (rb"\x7fELF|MZ.|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe", DATA.format("a program")),
        (rb"SQLite format 3\x00", DATA.format("a database (SQLite)")),
        (rb"\x93NUMPY|\x89HDF\r\n|PAR1", DATA.format("a file of numbers (NumPy, HDF5 or Parquet)")),
        (rb"\x00{512}", "a file that begins with zeros alone: was its download or copy finished?"),
    )
)
TEXT = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (r"#extm3u", PLAYLIST.format("M3U, HLS")),
        (r"\[playlist\]", PLAYLIST.format("PLS")),
        (r"<mpd[\s>]", PLAYLIST.format("DASH")),
        (r"<(?:playlist|asx|smil|smoothstreamingmedia)[\s>]", PLAYLIST.format("XML")),
        (r"ffconcat|\[reference\]", PLAYLIST.format("a list of parts")),
        (r"<svg[\s>]", "a drawing (SVG): save it as a PNG"),
        (r"<(?:rss|feed|rdf:rdf)[\s>]", DATA.format("a news feed (XML)")),
        (rf"<(?:!doctype html|{HTML})[\s/>]", WEB_PAGE),
        (r"<[!?a-z]", DATA.format("XML")),
        (r"webvtt|\[script info\]|\d+\s*\n\d+:\d\d:\d\d[,.]\d+\s*-->", "subtitles: name the video that they belong to"),
        (r"version https://git-lfs", "a placeholder of Git LFS: `git lfs pull` brings the file itself"),
        (r"\{\s*[\"}]|\[\s*(?:[\"{\[\]\d-]|true|false|null)", DATA.format("JSON")),
        (r"", "plain text: a list of media goes to `vllava batch --from-file`"),
    )
)
# What may stand before the first element of XML and HTML.
PROLOG = re.compile(r"(?:<\?[^>]*>|<!--.*?-->|<!doctype (?!html)[^>]*>)\s*", re.DOTALL)
NOT_IN_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # https://mimesniff.spec.whatwg.org/#binary-data-byte


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def is_text(head: bytes) -> bool:
    """Return whether bytes are text: in UTF-16 with its mark, or in an encoding that has ASCII in it."""
    return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or not NOT_IN_TEXT.search(head)


def what_is(head: bytes) -> str | None:
    """Return what a file is that begins so and is no medium, and mostly what to do with it; None if that is unknown."""
    for pattern, what in BINARY:
        if pattern.match(head):
            return what
    if not is_text(head):
        return None
    is_wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = head.decode("utf-16" if is_wide else "utf-8", "replace").lstrip("\ufeff \t\r\n\f").lower()
    start = 0
    while found := PROLOG.match(text, start):
        start = found.end()
    return next(what for pattern, what in TEXT if pattern.match(text, start))


def no_medium(name: str, what: str | None) -> str:
    """Say that a medium is something else, and how to come to a video or image."""
    if what == WEB_PAGE:
        source = shlex.quote(name) if is_web(name) else "URL"
        what = f'{WEB_PAGE}: yt-dlp -o - {source} | vllava ask - "..."'
    elif what is None:
        what = "damaged, or in a format that is not read; if a player shows it, `ffmpeg -i IN OUT.mp4` converts it"
    return f"{name!r} is no video or image that can be read: it is {what}"
