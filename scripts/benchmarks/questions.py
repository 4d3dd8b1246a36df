"""The table `questions`: N questions about one clip, 16 tokens each, ours together against N documented calls.

Both sides start from the eight frames and the questions' text; ours with an empty cache.
"""

import argparse
import time

from internals import Turn

from benchmarks.table import Record
from benchmarks.talking import NUM_NEW_TOKENS, Talk, add_options, add_rows, make_table, talk_about_a_clip

__all__ = ["add_options", "print_table"]

COUNTS = (1, 4, 16)
NOUNS = ("circle", "video", "shape", "color")
QUESTIONS = tuple(
    f"What {verb} the {noun}?" for noun in NOUNS for verb in ("moves", "happens to", "is beside", "hides")
)


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    with talk_about_a_clip(options.geometry) as talk:
        printed = make_table(talk, options, "questions", "ours, s (min to max)")
        seconds = add_rows(printed, _measure(talk, options.runs))
    printed.say(f"\n16 questions take {seconds[16] / seconds[1]:.2f} of one")


def _measure(talk: Talk, runs: int) -> dict[int, Record]:
    """Ask 1, 4 and 16 questions so many times, after one time that does not count."""
    rows: dict[int, Record] = {count: {"ours": [], "documented": []} for count in COUNTS}
    for run in range(runs + 1):
        for count, row in rows.items():
            conversations = [talk.conversation([Turn(question)]) for question in QUESTIONS[:count]]
            talk.engine.forget()
            began = time.perf_counter()
            for _ in talk.engine.stream_together(conversations, [talk.clip], talk.settings):
                pass
            ours = time.perf_counter() - began
            if not run and count > 1:
                continue  # the documented way is warm after one call
            documented = sum(talk.documented_seconds(each, NUM_NEW_TOKENS) for each in conversations)
            if run:
                row["ours"].append(ours)
                row["documented"].append(documented)
    return rows
