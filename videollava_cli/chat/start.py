"""How `vllava chat` begins: media found and read, the engine loaded, a conversation taken up."""

from dataclasses import dataclass

from videollava_cli.chat.session import Session
from videollava_cli.chat.showing import read_again, source_of
from videollava_cli.chat.transcript import Source, Transcript
from videollava_cli.console import Console
from videollava_cli.engine import Engine
from videollava_cli.engine.checkpoint import Checkpoint, find_checkpoint
from videollava_cli.engine.notes import tell_about_engine, tell_about_media
from videollava_cli.engine.prompting import one_question
from videollava_cli.engine.startup import BackgroundReading, start_engine
from videollava_cli.media import Medium
from videollava_cli.reader import MediaReader
from videollava_cli.settings import Settings


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a conversation begins with: media for the first question, settings, and what was said before."""

    names: tuple[str, ...]
    settings: Settings
    transcript: Transcript | None = None


def begin(beginning: Beginning, console: Console) -> Session:
    """Find the media, load the engine while they are read, and take up what was said before.

    Raises:
        UsageError: If the machine cannot do what the settings ask, or the media do not fit the context.
        MediaError: If a medium that was named cannot be read; of those that were shown before, that is only said.
        CheckpointError: If the checkpoint cannot be had.
        GenerationError: If it does not fit the memory.
    """
    settings = beginning.settings
    with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
        with console.status("Finding media"):
            found = [reader.find(name) for name in beginning.names]
        checkpoint = find_checkpoint(settings)
        with BackgroundReading(reader, found, checkpoint, settings.sampling) as reading:
            with console.status("Starting"):
                shown_before = _read_again(beginning.transcript, settings, checkpoint, console)
            kinds = [*(source.kind for source in shown_before), *(each.kind for each in found)]
            shortest = one_question(kinds, "?", settings)
            engine, _ = start_engine(settings, checkpoint, console, conversations=[shortest], media=reading.media)
            media = reading.media.result()
    tell_about_engine(engine, console)
    if media:
        tell_about_media(media, settings, console)
    session = _taken_up(engine, beginning, shown_before, console)
    for name, medium in zip(beginning.names, media, strict=True):
        session.show(source_of(name, medium, settings), medium)
    return session


def _read_again(
    transcript: Transcript | None, settings: Settings, checkpoint: Checkpoint, console: Console
) -> dict[Source, Medium]:
    """Read the media that were shown before, and say which cannot be."""
    media, lines = read_again(transcript.sources if transcript else (), settings, checkpoint)
    for line in lines:
        console.notice(line)
    return media


def _taken_up(engine: Engine, beginning: Beginning, media: dict[Source, Medium], console: Console) -> Session:
    session = Session(engine, beginning.settings, console.notice)
    if beginning.transcript is not None:
        session.take_up(beginning.transcript, media)
        session.settings = beginning.settings  # flags count more than what was saved
    return session
