"""A session keeps questions and answers, goes back, and leaves out the oldest turns when the context is full."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from media_files import COLORS, write_image

from videollava_cli.chat.session import Session, read_again
from videollava_cli.chat.transcript import AnsweredTurn
from videollava_cli.engine import Chunk, Usage
from videollava_cli.errors import GenerationError, UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.settings import Settings

PICTURE_TOKENS = 10


class ScriptedEngine:
    """Answers as scripted; each word is a token, each medium ten."""

    def __init__(self, *answers, context_length=100):
        self.answers = list(answers)
        self.given = []
        self.checkpoint = SimpleNamespace(context_length=context_length, media_tokens=lambda _: PICTURE_TOKENS)

    def count_tokens(self, conversation):
        """Count words, and ten for each medium."""
        return len(conversation.prompt().split()) + (PICTURE_TOKENS - 1) * len(conversation.media)

    def stream(self, conversation, media, settings):
        """Yield the words of the next answer, or raise what stands in it."""
        if self.count_tokens(conversation) >= self.checkpoint.context_length:
            raise UsageError("too long")
        self.given.append((conversation, media, settings))
        answer = self.answers.pop(0)
        for word in answer if isinstance(answer, list) else [answer]:
            if isinstance(word, BaseException):
                raise word
            yield Chunk(word)
        yield Chunk("", "stop", Usage(1, 0, 1, 0.1, 0.1, "float32"))

    def clear_cache(self):
        """Forget what was asked."""
        self.given.clear()

    @property
    def prompt(self):
        """The last prompt."""
        return self.given[-1][0].prompt()


class Conversing:
    """A session, its notices, and short ways to use it."""

    def __init__(self, *answers, context_length=100, **settings):
        self.engine = ScriptedEngine(*answers, context_length=context_length)
        self.notices = []
        self.session = Session(self.engine, Settings(**settings), self.notices.append)

    def ask(self, question):
        """Ask and return the whole answer."""
        return "".join(chunk.text for chunk in self.session.ask(question))

    def show(self, name="a.png"):
        """Show a picture."""
        medium = Medium(name, MediaKind.IMAGE, np.full((1, 2, 2, 3), len(name), np.uint8))
        return self.session.show(name, medium)


def test_second_question_is_asked_behind_the_first_turn():
    talk = Conversing("one", "two")
    talk.show()

    talk.ask("A?")
    talk.ask("B?")

    assert talk.engine.prompt == "USER: <image>\nA? ASSISTANT: one USER: B? ASSISTANT:"
    assert [turn.answer for turn in talk.session.turns] == ["one", "two"]
    assert talk.session.queued == ()


def test_media_come_with_the_question_after_them():
    talk = Conversing("one", "two")
    first = talk.show("a.png")
    talk.ask("A?")
    second = talk.show("bb.png")
    talk.ask("B?")

    assert talk.engine.prompt == "USER: <image>\nA? ASSISTANT: one USER: <image>\nB? ASSISTANT:"
    assert talk.engine.given[-1][1] == [talk.session.media[first], talk.session.media[second]]


def test_several_media_are_warned_of_once():
    talk = Conversing()
    for name in ("a.png", "bb.png", "ccc.png"):
        talk.show(name)

    assert len(talk.notices) == 1
    assert "not trained for several media" in talk.notices[0]


@pytest.mark.parametrize("way", ["close", "interrupt"])
def test_stopped_answer_stays_as_far_as_it_is(way):
    talk = Conversing(["A red", " circle", KeyboardInterrupt()], "two")
    talk.show()

    if way == "close":
        with closing(talk.session.ask("A?")) as chunks:
            next(chunks), next(chunks)
    else:
        with pytest.raises(KeyboardInterrupt):
            talk.ask("A?")

    talk.ask("B?")
    assert talk.session.turns[0] == AnsweredTurn("A?", "A red circle", talk.session.turns[0].media, is_stopped=True)
    assert talk.engine.prompt == "USER: <image>\nA? ASSISTANT: A red circle USER: B? ASSISTANT:"


def test_answer_stopped_before_its_first_word_leaves_everything_as_it_was():
    talk = Conversing([KeyboardInterrupt()])
    source = talk.show()

    with pytest.raises(KeyboardInterrupt):
        talk.ask("A?")

    assert (talk.session.turns, talk.session.queued) == ((), (source,))


def test_failed_turn_leaves_everything_as_it_was():
    talk = Conversing(["half", GenerationError("out of memory")], "two")
    source = talk.show()

    with pytest.raises(GenerationError):
        talk.ask("A?")

    assert (talk.session.turns, talk.session.queued) == ((), (source,))
    assert talk.ask("B?") == "two"


def test_empty_question_is_refused():
    with pytest.raises(UsageError, match="the question is empty"):
        Conversing().ask(" ")


def test_undo_takes_back_media_first_and_then_turns_whose_media_wait_again():
    talk = Conversing("one")
    first = talk.show("a.png")
    talk.ask("A?")
    second = talk.show("bb.png")

    assert talk.session.undo() == second
    assert talk.session.undo() == AnsweredTurn("A?", "one", (first,))
    assert (talk.session.turns, talk.session.queued) == ((), (first,))
    assert talk.session.undo() == first
    with pytest.raises(UsageError, match="nothing to undo"):
        talk.session.undo()


def test_clear_keeps_the_media_and_reset_does_not():
    talk = Conversing("one", "two")
    source = talk.show()
    talk.ask("A?")

    talk.session.clear()
    assert (talk.session.turns, talk.session.queued) == ((), (source,))
    talk.ask("B?")
    assert talk.engine.prompt == "USER: <image>\nB? ASSISTANT:"

    talk.session.reset()
    assert (talk.session.turns, talk.session.shown) == ((), ())


def test_retry_replaces_the_last_answer_and_lets_waiting_media_wait():
    talk = Conversing("one", "two", "three")
    first = talk.show("a.png")
    talk.ask("A?")
    talk.ask("B?")
    second = talk.show("bb.png")

    list(talk.session.retry())

    assert talk.session.turns == (AnsweredTurn("A?", "one", (first,)), AnsweredTurn("B?", "three"))
    assert talk.session.queued == (second,)


def test_retry_that_fails_or_is_stopped_at_once_leaves_the_old_answer():
    talk = Conversing("one", [GenerationError("out of memory")], [KeyboardInterrupt()])
    talk.ask("A?")

    for problem in (GenerationError, KeyboardInterrupt):
        with pytest.raises(problem):
            list(talk.session.retry())

    assert talk.session.turns == (AnsweredTurn("A?", "one"),)


def test_sampled_retry_takes_the_next_seed_and_the_next_question_the_first_again():
    talk = Conversing("one", "two", "three", "four", temperature=1.0, seed=7)
    talk.ask("A?")
    list(talk.session.retry())
    list(talk.session.retry())
    talk.ask("B?")

    assert [settings.seed for _, _, settings in talk.engine.given] == [7, 8, 9, 7]


def test_retry_without_a_question_is_refused():
    with pytest.raises(UsageError, match="nothing to retry"):
        list(Conversing().session.retry())


def test_full_context_drops_the_oldest_turns_but_no_media_and_says_so_once():
    talk = Conversing(*["word " * 10] * 6, context_length=60, system="Be short.")
    talk.show()
    for question in ("A?", "B?", "C?", "D?", "E?"):
        talk.ask(question)

    assert talk.engine.prompt.startswith("Be short. USER: <image>\n")
    assert "A?" not in talk.engine.prompt
    assert "D?" in talk.engine.prompt
    assert [turn.question for turn in talk.session.turns] == ["A?", "B?", "C?", "D?", "E?"]
    assert talk.session.num_left_out >= 2
    assert len([text for text in talk.notices if "the oldest turns are left out of" in text]) == 1


def test_turns_that_were_left_out_stay_out_so_that_the_prefix_is_kept():
    talk = Conversing(*["word " * 10] * 4, "short", context_length=45)
    for question in ("A?", "B?", "C?", "D?"):
        talk.ask(question)
    left_out = talk.session.num_left_out

    talk.session.undo()
    talk.ask("D?")

    assert left_out > 0
    assert talk.session.num_left_out >= left_out - 1


def test_question_that_does_not_fit_even_alone_is_refused_and_nothing_is_dropped():
    talk = Conversing("one", context_length=30)
    talk.ask("A?")

    with pytest.raises(UsageError, match="too long"):
        talk.ask("why " * 40)

    assert (talk.session.num_left_out, len(talk.session.turns)) == (0, 1)
    assert not [text for text in talk.notices if "left out" in text]


def test_fullness_is_measured_with_waiting_media_and_warned_of_once():
    talk = Conversing("word " * 60)
    assert talk.session.percent == 0
    talk.show()
    assert talk.session.percent == 10

    talk.ask("A?")
    talk.show("bb.png")
    talk.session.warn_when_full()
    talk.session.warn_when_full()

    assert talk.session.percent >= 80
    assert len([text for text in talk.notices if "the context of 100 tokens is 8" in text]) == 1


def test_medium_for_which_no_context_is_left_is_refused():
    talk = Conversing(context_length=20)
    talk.show()

    with pytest.raises(UsageError, match=r"one more image does not fit: with it the media take .*/reset drops those"):
        talk.session.check_fits(MediaKind.IMAGE)


def test_question_without_media_is_asked_with_a_hint():
    talk = Conversing("one")

    assert talk.ask("A?") == "one"
    assert talk.notices == ["no video or image is shown yet: /video PATH or /image PATH shows one"]


def test_conversation_is_taken_up_with_its_settings():
    talk, other = Conversing("one", temperature=0.5), Conversing("two")
    talk.show()
    talk.ask("A?")

    other.session.take_up(talk.session.transcript, talk.session.media)
    other.ask("B?")

    assert other.engine.prompt == "USER: <image>\nA? ASSISTANT: one USER: B? ASSISTANT:"
    assert other.session.settings.temperature == 0.5


def test_medium_that_is_gone_has_no_placeholder_any_more():
    talk, other = Conversing("one"), Conversing("two")
    talk.show()
    talk.ask("A?")

    other.session.take_up(talk.session.transcript, {})
    other.ask("B?")

    assert other.engine.prompt == "USER: A? ASSISTANT: one USER: B? ASSISTANT:"
    assert len(other.session.shown) == 1


def test_wrong_setting_in_a_conversation_leaves_the_session_as_it_was():
    talk = Conversing("one")
    talk.ask("A?")
    transcript = talk.session.transcript
    transcript.settings["device"] = "cpu"

    with pytest.raises(UsageError, match="'device' cannot be set for one answer"):
        talk.session.take_up(transcript, {})

    assert len(talk.session.turns) == 1


def test_media_are_read_again_and_what_changed_or_is_gone_is_noticed(tmp_path, pixels):
    red, blue = (np.full((60, 60, 3), COLORS[name], np.uint8) for name in ("red", "blue"))
    names = [str(tmp_path / name) for name in ("same.png", "changed.png", "gone.png")]
    talk = Conversing()
    talk.engine.checkpoint.pixels = pixels
    for name in names:
        write_image(tmp_path / name, red)
        medium = talk.session.read(name)
        talk.session.show(name, medium)
    write_image(tmp_path / "changed.png", blue)
    (tmp_path / "gone.png").unlink()
    talk.session.show("-", medium)

    media, lines = read_again(talk.session.shown, Settings(), talk.engine.checkpoint)

    assert list(media) == list(talk.session.shown[:2])
    assert media[talk.session.shown[0]].digest == talk.session.shown[0].digest
    starts = (
        f"'{names[1]}' has changed since it was talked about",
        f"no such file: '{names[2]}'",
        "a medium came on stdin",
    )
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 3
