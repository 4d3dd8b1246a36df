"""How far a batch is, in numbers; knows nothing of how they are shown."""

import time
from dataclasses import dataclass, field
from typing import Any

from videollava_cli.batch.pipeline import Answered, Failed, NoMedia, Outcome


@dataclass(slots=True)
class Tally:
    """Counts of items; `num_here` and `num_failed_before` are those whose lines were there at the start.

    A clip, or image, counts for the speed when something became of it, once whatever number of questions it got.
    """

    num_items: int
    num_here: int = 0
    num_failed_before: int = 0
    num_answered: int = 0
    num_failed: int = 0
    num_no_media: int = 0
    num_clips: int = 0
    num_files_without_media: int = 0
    began: float = field(default_factory=time.perf_counter)
    _last_path: str | None = None

    def start_clock(self, seconds_ago: float = 0.0) -> None:
        """Count the seconds from then on: what came before, such as loading, is no measure of what is to come."""
        self.began = time.perf_counter() - seconds_ago

    def add(self, outcome: Outcome[Any]) -> None:
        """Count what became of an item, in the order in which they were done."""
        self.num_answered += isinstance(outcome, Answered)
        self.num_failed += isinstance(outcome, Failed)
        self.num_no_media += isinstance(outcome, NoMedia)
        path = outcome.item.source.path
        if path != self._last_path:
            self._last_path = path
            self.num_clips += not isinstance(outcome, NoMedia)
            self.num_files_without_media += isinstance(outcome, NoMedia)

    @property
    def num_done(self) -> int:
        """How many items need nothing any more."""
        return self.num_here + self._num_done_now

    @property
    def num_failed_in_all(self) -> int:
        """How many items have no answer, now or from before."""
        return self.num_failed_before + self.num_failed

    @property
    def seconds(self) -> float:
        """How long it has gone on, loading aside."""
        return time.perf_counter() - self.began

    @property
    def clips_per_second(self) -> float:
        """How fast it went so far, loading aside."""
        return self.num_clips / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at the pace so far; None when there is none to go by."""
        if not self._num_done_now:
            return None
        return (self.num_items - self.num_done) * self.seconds / self._num_done_now

    @property
    def _num_done_now(self) -> int:
        return self.num_answered + self.num_failed + self.num_no_media
