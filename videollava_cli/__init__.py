"""vllava: ask questions about videos and images with Video-LLaVA.

from videollava_cli import load

engine = load("tiny")
print(engine.answer_text("examples/circle-moves-right.mp4", "What happens?"))

for chunk in engine.ask("examples/triangle.jpg", "What color is it?"):
    print(chunk.text, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videollava_cli.engine import Chunk as Chunk
    from videollava_cli.engine import Engine as Engine
    from videollava_cli.engine import Request as Request
    from videollava_cli.engine import Usage as Usage
    from videollava_cli.engine import in_order as in_order
    from videollava_cli.engine.startup import load as load
    from videollava_cli.engine.startup import read as read
    from videollava_cli.errors import VllavaError as VllavaError
    from videollava_cli.media import Medium as Medium
    from videollava_cli.reader.in_memory import clip as clip

__version__ = "0.1.0"
_HOMES = {
    **dict.fromkeys(("load", "read"), "engine.startup"),
    **dict.fromkeys(("Chunk", "Engine", "Request", "Usage", "in_order"), "engine"),
    **{"Medium": "media", "VllavaError": "errors", "clip": "reader.in_memory"},
}
__all__ = [*_HOMES]  # noqa: PLE0604 (names of the table above)


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for, so that importing the package costs nothing."""
    if name in _HOMES:
        return getattr(import_module(f"videollava_cli.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
