"""Media of a conversation: read when they are shown, and read again when it is taken up; knows no turns."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from videollava_cli.chat.transcript import Source
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.errors import UsageError, VllavaError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.preprocessing import Fit
from videollava_cli.reader import MediaReader
from videollava_cli.settings import SETTINGS, Settings, for_one_answer

STDIN = "-"


def read_medium(
    name: str, settings: Settings, checkpoint: Checkpoint, check: Callable[[MediaKind], None]
) -> tuple[Source, Medium]:
    """Find and read a medium.

    Args:
        name: A path, a URL, an hf:// name.
        settings: How to sample a clip, and whether to fetch.
        checkpoint: For whom.
        check: Refuses, before it is decoded, a medium of a kind for which there is no room.

    Raises:
        MediaError: If there is none, or it cannot be read.
        UsageError: If it was refused.
    """
    with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
        found = reader.find(name)
        check(found.kind)
        medium = reader.read(found, checkpoint.pixels, settings.sampling)
    return source_of(name, medium, settings), medium


def source_of(name: str, medium: Medium, settings: Settings) -> Source:
    """Return where a medium came from that was read with the settings."""
    is_elsewhere = name == STDIN or "://" in name
    return Source(
        name=name if is_elsewhere else os.path.abspath(os.path.expanduser(name)),
        kind=medium.kind,
        start=settings.start,
        end=settings.end,
        at=settings.at,
        fit=settings.fit,
        side=medium.pixels.shape[-2],
        digest=medium.digest,
    )


def read_again(
    sources: Iterable[Source], settings: Settings, checkpoint: Checkpoint
) -> tuple[dict[Source, Medium], list[str]]:
    """Read the media of a conversation that is taken up.

    Returns:
        Those that are there, and a line about each that is not, or that shows something else by now.
    """
    media: dict[Source, Medium] = {}
    lines = []
    for source in dict.fromkeys(sources):
        try:
            media[source] = _read_again(source, settings, checkpoint)
        except VllavaError as error:
            lines.append(f"{error}; the conversation goes on without it")
            continue
        is_comparable = media[source].pixels.shape[-2] == source.side
        if is_comparable and media[source].digest != source.digest:
            lines.append(f"{source.name!r} has changed since it was talked about: the model sees what is there now")
    return media, lines


def _read_again(source: Source, settings: Settings, checkpoint: Checkpoint) -> Medium:
    if source.name == STDIN:
        raise UsageError(f"a medium came on stdin ({source.kind}) and cannot be read again")
    if source.fit not in SETTINGS["fit"].choices:
        raise UsageError(f"fit of {source.name!r} is {source.fit!r}")
    then = for_one_answer(settings, {"start": source.start, "end": source.end, "at": source.at})
    pixels = replace(checkpoint.pixels, fit=Fit(source.fit))
    with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
        found = reader.find(source.name)
        if found.kind is not source.kind:
            raise UsageError(f"{source.name!r} is of another kind now, {found.kind} and not {source.kind}")
        return reader.read(found, pixels, then.sampling)
