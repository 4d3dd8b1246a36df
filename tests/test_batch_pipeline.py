"""The pipeline with scripted readers and answers: order, batches, memory, errors."""

import threading
import time
from itertools import groupby

import numpy as np
import pytest

from videollava_cli.batch import Item, Source
from videollava_cli.batch.pipeline import AHEAD_AT_FIRST, Answered, Failed, NoMedia, Pipeline, Row
from videollava_cli.batch.tally import Tally
from videollava_cli.errors import MediaError, MemoryFullError, UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.progress import Numbers, duration

PICTURE = Medium("picture", MediaKind.IMAGE, np.zeros((1, 2, 2, 3), np.uint8))


class Scripted:
    """Reads `bad*` as errors, `text*` as no media, waits over `slow*`; answers up to `room` rows at once."""

    def __init__(self, room=100):
        self.room = room
        self.batches = []
        self.num_read = 0
        self.num_answered = 0
        self.most_ahead = 0
        self.is_stopped = False
        self.lock = threading.Lock()

    def read(self, items):
        """Read as the path says."""
        path = items[0].source.path
        if path.startswith("bad"):
            return [Failed(item, MediaError("bad")) for item in items]
        if path.startswith("text"):
            return [NoMedia(item) for item in items]
        if path.startswith("slow"):
            time.sleep(0.3)
        with self.lock:
            self.num_read += 1
            self.most_ahead = max(self.most_ahead, self.num_read - self.num_answered)
        return [Row(item, PICTURE, 0.1) for item in items]

    def answer(self, rows):
        """Answer with the question."""
        if len(rows) > self.room:
            raise MemoryFullError("out of memory")
        self.batches.append(len(rows))
        self.num_answered += len({row.item.source.path for row in rows})
        return [UsageError("long") if row.item.question == "long" else row.item.question for row in rows]

    def stop(self):
        """Note that it was called."""
        self.is_stopped = True


def items_of(*paths, questions=("Why?",)):
    return [Item(path, Source(path), question) for path in paths for question in questions]


def pipeline(scripted, batch_size=4, **options):
    return Pipeline(
        prepare=lambda: batch_size,
        read=scripted.read,
        stop=scripted.stop,
        answer=scripted.answer,
        num_readers=2,
        **options,
    )


def outcomes_of(running, items):
    return [outcome for batch in running.run(items) for outcome in batch]


def test_outcomes_come_in_the_order_of_the_items_whatever_takes_long():
    paths = ["slow1", "a", "bad1", "text1", "b", "slow2", "c", "d", "e", "bad2"]

    outcomes = outcomes_of(pipeline(Scripted()), items_of(*paths))

    assert [outcome.item.id for outcome in outcomes] == paths
    kinds = [kind for kind, _ in groupby(type(outcome) for outcome in outcomes)]
    assert kinds == [Answered, Failed, NoMedia, Answered, Failed]


def test_unordered_outcomes_do_not_wait_for_what_takes_long():
    paths = ["slow", "a", "b", "c", "d"]

    outcomes = outcomes_of(pipeline(Scripted(), batch_size=2, is_ordered=False), items_of(*paths))

    assert outcomes[-1].item.id == "slow"
    assert sorted(outcome.item.id for outcome in outcomes) == sorted(paths)


def test_batches_are_full_and_questions_about_a_medium_stay_together():
    scripted = Scripted()

    outcomes = outcomes_of(pipeline(scripted), items_of("a", "b", "c", questions=("1", "2", "3")))

    assert scripted.batches == [4, 4, 1]
    assert scripted.num_read == 3
    assert [outcome.answer for outcome in outcomes] == ["1", "2", "3"] * 3


def test_full_memory_halves_the_batch_for_good_and_loses_nothing():
    scripted = Scripted(room=3)
    running = pipeline(scripted, batch_size=8)

    outcomes = outcomes_of(running, items_of(*map(str, range(20))))

    assert [outcome.item.id for outcome in outcomes] == [str(number) for number in range(20)]
    assert all(isinstance(outcome, Answered) for outcome in outcomes)
    assert max(scripted.batches) == 2
    assert running.pace.batch_size == 2


def test_item_for_which_alone_the_memory_is_too_small_fails_and_the_others_do_not():
    scripted = Scripted(room=0)

    outcomes = outcomes_of(pipeline(scripted), items_of("a", "b", "c"))

    assert [(outcome.item.id, str(outcome.error)) for outcome in outcomes] == [
        (name, "out of memory") for name in ("a", "b", "c")
    ]


def test_question_that_does_not_fit_fails_and_its_medium_is_told():
    outcomes = outcomes_of(pipeline(Scripted()), items_of("a", questions=("long", "short")))

    assert [type(outcome) for outcome in outcomes] == [Failed, Answered]
    assert outcomes[0].row.medium is PICTURE


def test_nothing_is_prepared_when_nothing_can_be_read():
    def never():
        raise AssertionError

    scripted = Scripted()
    running = Pipeline(prepare=never, read=scripted.read, stop=scripted.stop, answer=scripted.answer, num_readers=2)

    assert len(outcomes_of(running, items_of("bad1", "bad2", "text"))) == 3


def test_reading_ahead_is_bounded():
    scripted = Scripted()

    outcomes_of(pipeline(scripted, batch_size=10), items_of(*map(str, range(200))))

    # The readers, what waits, the batch in hand.
    assert 2 * 10 < scripted.most_ahead <= 2 + max(AHEAD_AT_FIRST, 2 * 10) + 10


def test_closing_or_an_error_stops_the_readers():
    scripted = Scripted()
    batches = pipeline(scripted, batch_size=1).run(items_of("a", "b", "c"))
    next(batches)
    batches.close()
    assert scripted.is_stopped

    broken = Scripted()
    broken.answer = lambda rows: 1 / 0
    with pytest.raises(ZeroDivisionError):
        outcomes_of(pipeline(broken), items_of("a", "b"))
    assert broken.is_stopped


def test_waiting_for_readers_and_answering_are_timed():
    running = pipeline(Scripted())

    outcomes_of(running, items_of("slow1", "slow2"))

    assert running.pace.wait_seconds > 0.25
    assert running.pace.answer_seconds < 0.1


def test_tally_counts_items_and_clips_and_files():
    tally = Tally(num_items=10, num_here=2, num_failed_before=1)

    for outcome in outcomes_of(pipeline(Scripted()), items_of("a", "bad", "text", questions=("1", "2"))):
        tally.add(outcome)

    assert (tally.num_answered, tally.num_failed, tally.num_no_media) == (2, 2, 2)
    assert (tally.num_clips, tally.num_files_without_media) == (2, 1)
    assert (tally.num_done, tally.num_failed_in_all) == (8, 3)


def test_seconds_left_follow_from_the_pace_so_far():
    tally = Tally(num_items=4)
    assert tally.seconds_left is None
    tally.add(Answered(Row(items_of("a")[0], PICTURE, 0.0), ""))

    assert tally.seconds_left == pytest.approx(3 * tally.seconds, rel=0.5)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (187, "3:07 min"), (7500, "2:05 h"), (4e6, "1,111:06 h")]
)
def test_durations_are_told_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_progress_in_words():
    assert Numbers(1200, 5000, 3, 4.26, 187).in_words == "1,200 of 5,000, 3 failed, 4.3 clips/s, 3:07 min left"
    assert Numbers(0, 5, 0, 0.0, None).in_words == "0 of 5, 0.0 clips/s"
