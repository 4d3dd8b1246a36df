"""Video without a container: coded pictures one behind the other, with neither index nor timestamps.

FFmpeg's parsers keep everything until the next picture begins, and a file in which none does would fill the memory.
"""

import re
from typing import BinaryIO

import av.error
from av.codec import CodecContext

from videollava_cli.errors import MediaError

YUV4MPEG = "yuv4mpegpipe"
# FFmpeg's demuxers by how a stream begins: its first unit, behind a start code.
BEGINNINGS = (
    (YUV4MPEG, re.compile(rb"YUV4MPEG2[ \n]")),
    ("h264", re.compile(rb"\0?\0\0\x01[\x06\x09\x27\x47\x67]")),  # SEI, delimiter, SPS (ITU-T H.264, table 7-1)
    ("hevc", re.compile(rb"\0?\0\0\x01[\x40\x42\x44\x46\x4e]\x01")),  # VPS, SPS, PPS, delimiter, SEI (H.265, 7-1)
    ("mpegvideo", re.compile(rb"\0?\0\0\x01\xb3")),  # sequence header of MPEG-1 and MPEG-2
)
CODECS = {"h264": "h264", "hevc": "hevc", "mpegvideo": "mpeg2video"}  # of those that are parsed
CHUNK_BYTES = 1 << 20
MAX_PICTURE_BYTES = 64 << 20


def stream_format(head: bytes) -> str | None:
    """Return FFmpeg's name for a stream without a container that begins so; None if it is something else."""
    return next((name for name, beginning in BEGINNINGS if beginning.match(head)), None)


def check_pictures(file: BinaryIO, name: str, form: str) -> None:
    """Refuse a stream in which more lies between two pictures than the memory should hold."""
    if form not in CODECS:
        return
    file.seek(0)
    parser, num_bytes = CodecContext.create(CODECS[form], "r"), 0
    while chunk := file.read(CHUNK_BYTES):
        try:
            packets = parser.parse(chunk)
        except av.error.FFmpegError:
            return  # reading it will say what is wrong
        num_bytes = 0 if packets else num_bytes + len(chunk)
        if num_bytes > MAX_PICTURE_BYTES:
            size = MAX_PICTURE_BYTES >> 20
            raise MediaError(f"{name!r} has more than {size} MiB without a new picture: it is damaged or a trap")
