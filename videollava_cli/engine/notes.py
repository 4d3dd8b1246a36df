"""What commands say on stderr about the media, the engine and its answers."""

from collections.abc import Sequence

from videollava_cli.console import Console
from videollava_cli.engine import Engine, Usage
from videollava_cli.media import MediaKind, Medium
from videollava_cli.settings import Settings


def tell_about_media(media: Sequence[Medium], settings: Settings, console: Console) -> None:
    """Pass on what was noticed while reading, and with --verbose which frames were taken."""
    is_partial = (settings.start, settings.end, settings.at) != (None, None, None)
    if is_partial and not any(medium.kind is MediaKind.VIDEO for medium in media):
        console.notice("--start, --end and --at choose frames of a video, and here is none")
    for medium in media:
        for notice in medium.notices:
            console.notice(notice)
        if medium.stamps:
            for detail in medium.details:
                console.detail(detail)
            frames = ", ".join(f"{stamp.index} ({stamp.seconds:.2f} s)" for stamp in medium.stamps)
            console.detail(f"{medium.name}: frames {frames}")


def tell_about_engine(engine: Engine, console: Console) -> None:
    """Say with --verbose on what the model runs."""
    console.detail(f"{engine.settings.model} on {engine.model.device}, {engine.model.dtype}")


def usage_line(usage: Usage) -> str:
    """Return what an answer took, as one line."""
    rate = usage.new_tokens / max(usage.prefill_seconds + usage.generate_seconds, 1e-9)
    return (
        f"{usage.prompt_tokens:,} prompt tokens, {usage.cached_tokens:,} cached, {usage.new_tokens} new ones, first "
        f"after {usage.prefill_seconds:.2f} s, {rate:.1f} tokens/s"
    )


def cut_off_line(usage: Usage, context_length: int, remedy: str) -> str:
    """Say what an answer ran into: the context's end, or the number of tokens that was asked for, and then what to do.

    `context_length` is in tokens.
    """
    is_full = usage.prompt_tokens + usage.new_tokens >= context_length
    why = f", because the context of {context_length:,} is full" if is_full else f": {remedy}"
    return f"the answer was cut off after {usage.new_tokens} tokens{why}"
