"""The table `chat`: seconds to the first token of turns 1, 2 and 10 about a clip, ours against the documented way.

Both sides start from the eight frames and the text of all turns so far. The answers in that text are the same fixed
sentence, so nothing of what was generated can be reused: each turn runs the last answer and the new question.
"""

import argparse
import json
import time
from statistics import median

from benchmarks.talking import Row, Talk, add_options, header, talk_about_a_clip, told
from videollava_cli.prompt import Conversation, Turn

__all__ = ["add_options", "measure_chat", "print_table"]

SHOWN_TURNS = (1, 2, 10)
QUESTION, ANSWER = "And what happens then in the video?", "A red circle moves from left to right."


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    with talk_about_a_clip(options.geometry) as talk:
        rows = measure_chat(talk, options.runs)
        line = header(talk, options)
    if options.json:
        for row in rows.values():
            print(json.dumps(told(row)))
        return
    print(f"{line}\n")
    print("| turn | ours, s to the first token (min to max) | documented, s | ratio |\n|--:|--:|--:|--:|")
    for row in rows.values():
        print(row.cells())
    first, second, last = (median(rows[turn].ours) for turn in SHOWN_TURNS)
    print(
        f"\nturn 2 takes 1/{first / second:.1f} of turn 1; turn {SHOWN_TURNS[-1]} takes {last / second:.2f} of turn 2"
    )


def measure_chat(talk: Talk, runs: int) -> dict[int, Row]:
    """Hold a conversation of ten turns so many times, after one that does not count; return the turns shown."""
    rows = {turn: Row(str(turn)) for turn in SHOWN_TURNS}
    for run in range(runs + 1):
        talk.engine.clear_cache()
        seconds = [_first_token_seconds(talk, turn) for turn in range(1, SHOWN_TURNS[-1] + 1)]
        for turn, row in rows.items():
            documented = talk.documented_seconds(_conversation(talk, turn), max_new_tokens=1)
            if run:
                row.ours.append(seconds[turn - 1])
                row.documented.append(documented)
    return rows


def _first_token_seconds(talk: Talk, turn: int) -> float:
    """Answer a turn; return how long its first token took, from the text on."""
    conversation = _conversation(talk, turn)
    began = time.perf_counter()
    *_, last = talk.engine.stream(conversation, [talk.clip], talk.settings)
    assert last.usage is not None, "the last chunk tells the usage"
    return time.perf_counter() - began - last.usage.generate_seconds


def _conversation(talk: Talk, turn: int) -> Conversation:
    return talk.conversation([Turn(QUESTION, ANSWER)] * (turn - 1) + [Turn(QUESTION)])
