"""vllava: ask questions about videos and images with Video-LLaVA.

from videollava_cli import load

engine = load("tiny")
for chunk in engine.ask(["clip.mp4"], "What happens?"):
print(chunk.text, end="", flush=True)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videollava_cli.api import load as load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the public function when it is asked for, so that importing the package costs nothing."""
    if name == "load":
        from videollava_cli.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
