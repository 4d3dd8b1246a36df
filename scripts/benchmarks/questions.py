"""The table `questions`: N questions about one clip, 16 tokens each, ours together against N documented calls.

Both sides start from the eight frames and the questions' text; ours with nothing kept.
"""

import argparse
import json
import time
from statistics import median

from benchmarks.talking import NUM_NEW_TOKENS, Row, Talk, add_options, header, talk_about_a_clip, told
from videollava_cli.engine import Request
from videollava_cli.prompt import Turn

__all__ = ["add_options", "measure_questions", "print_table"]

COUNTS = (1, 4, 16)
NOUNS = ("circle", "video", "shape", "color")
QUESTIONS = tuple(
    f"What {verb} the {noun}?" for noun in NOUNS for verb in ("moves", "happens to", "is beside", "hides")
)


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    with talk_about_a_clip(options.geometry) as talk:
        rows = measure_questions(talk, options.runs)
        line = header(talk, options)
    if options.json:
        for row in rows.values():
            print(json.dumps(told(row)))
        return
    print(f"{line}\n")
    print("| questions | ours, s (min to max) | documented, s | ratio |\n|--:|--:|--:|--:|")
    for row in rows.values():
        print(row.cells())
    print(f"\n16 questions take {median(rows[16].ours) / median(rows[1].ours):.2f} of one")


def measure_questions(talk: Talk, runs: int) -> dict[int, Row]:
    """Ask 1, 4 and 16 questions so many times, after one time that does not count."""
    rows = {count: Row(str(count)) for count in COUNTS}
    for run in range(runs + 1):
        for count, row in rows.items():
            conversations = [talk.conversation([Turn(question)]) for question in QUESTIONS[:count]]
            talk.engine.clear_cache()
            began = time.perf_counter()
            for _ in talk.engine.answer([Request(each, (talk.clip,), talk.settings) for each in conversations]):
                pass
            ours = time.perf_counter() - began
            if not run and count > 1:
                continue  # the documented way is warm after one call
            documented = sum(talk.documented_seconds(each, NUM_NEW_TOKENS) for each in conversations)
            if run:
                row.ours.append(ours)
                row.documented.append(documented)
    return rows
