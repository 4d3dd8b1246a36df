"""Turns become exactly the prompt text that the model was trained with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind
from videollava_cli.prompt import Conversation, PromptStyle, Turn, set_apart

VIDEO, IMAGE = MediaKind.VIDEO, MediaKind.IMAGE
RESERVED = ("<s>", "</s>", "<unk>", "<pad>", "<video>", "<image>")
pieces = st.sampled_from([*RESERVED, "<", ">", "video>", "<vid", "image", " ", "/s>", "s", "é", "\n"])


def one(question, media=(VIDEO,), **options):
    return Conversation.about(media, (Turn(question),), **options)


@pytest.mark.parametrize(
    ("media", "prompt"),
    [
        ((VIDEO,), "USER: <video>\nWhat happens? ASSISTANT:"),
        ((IMAGE,), "USER: <image>\nWhat happens? ASSISTANT:"),
        ((IMAGE, VIDEO), "USER: <image>\n<video>\nWhat happens? ASSISTANT:"),
        ((VIDEO, IMAGE, IMAGE), "USER: <video>\n<image>\n<image>\nWhat happens? ASSISTANT:"),
        ((), "USER: What happens? ASSISTANT:"),
    ],
)
def test_placeholders_stand_before_the_question_in_the_order_of_the_media(media, prompt):
    assert one("What happens?", media).prompt() == prompt


def test_media_may_come_with_any_question():
    turns = (
        Turn("What is it?", "A cat.", (VIDEO,)),
        Turn("And this?", "A dog.", (IMAGE, IMAGE)),
        Turn("Which is larger?"),
    )

    conversation = Conversation(turns)

    assert conversation.media == (VIDEO, IMAGE, IMAGE)
    assert conversation.prompt() == (
        "USER: <video>\nWhat is it? ASSISTANT: A cat. USER: <image>\n<image>\nAnd this? ASSISTANT: A dog. "
        "USER: Which is larger? ASSISTANT:"
    )


def test_leaving_out_the_oldest_turn_keeps_its_media_and_the_system_text():
    turns = (Turn("What is it?", "A cat.", (VIDEO,)), Turn("And this?", "A dog.", (IMAGE,)), Turn("Which is larger?"))
    conversation = Conversation(turns, system="Be brief.")

    shorter = conversation.without_oldest_turn()

    assert shorter.prompt() == (
        "Be brief. USER: <video>\n<image>\nAnd this? ASSISTANT: A dog. USER: Which is larger? ASSISTANT:"
    )
    assert shorter.media == conversation.media


def test_the_only_turn_cannot_be_left_out():
    with pytest.raises(ValueError, match="the only turn"):
        one("Why?").without_oldest_turn()


def test_joined_style_puts_nothing_after_a_placeholder():
    conversation = one("What happens?", (IMAGE, VIDEO), style=PromptStyle.JOINED)

    assert conversation.prompt() == "USER: <image><video>What happens? ASSISTANT:"


def test_later_turns_follow_after_single_spaces_without_placeholders():
    turns = (Turn("What is it?", "A cat."), Turn("Which colour?", "Black."), Turn("Where?"))

    prompt = Conversation.about((VIDEO,), turns).prompt()

    assert prompt == (
        "USER: <video>\nWhat is it? ASSISTANT: A cat. USER: Which colour? ASSISTANT: Black. USER: Where? ASSISTANT:"
    )


def test_system_text_stands_first():
    conversation = one("Why?", system="Be brief.")

    assert conversation.prompt() == "Be brief. USER: <video>\nWhy? ASSISTANT:"


def test_empty_system_text_leaves_no_gap():
    assert one("Why?", system="").prompt() == "USER: <video>\nWhy? ASSISTANT:"


def test_white_space_around_questions_and_answers_is_dropped():
    turns = (Turn("  Why?\n", " So. "), Turn("\tAnd?"))

    assert Conversation.about((VIDEO,), turns).prompt() == "USER: <video>\nWhy? ASSISTANT: So. USER: And? ASSISTANT:"


def test_line_breaks_inside_a_question_are_kept():
    assert one("a\nb").prompt() == "USER: <video>\na\nb ASSISTANT:"


def test_placeholder_words_in_what_people_write_are_set_apart():
    turns = (Turn("Is <image> a tag?", "So is <video>."), Turn("<video>"))
    conversation = Conversation.about((VIDEO,), turns, system="Say <video>.")

    prompt = conversation.prompt()

    assert prompt == (
        "Say < video>. USER: <video>\nIs < image> a tag? ASSISTANT: So is < video>. USER: < video> ASSISTANT:"
    )


def test_reserved_words_of_the_tokenizer_are_set_apart_too():
    assert one("Ends </s> here?").prompt(["<s>", "</s>"]) == "USER: <video>\nEnds < /s> here? ASSISTANT:"


@pytest.mark.parametrize(
    ("text", "apart"),
    [
        ("<<video>video>", "<< video>video>"),
        ("<video><video>", "< video>< video>"),
        ("<vid<video>eo>", "<vid< video>eo>"),
        ("<image<image>>", "<image< image>>"),
        ("< video>", "< video>"),
        ("<VIDEO>", "<VIDEO>"),
    ],
)
def test_words_cannot_be_nested_to_make_a_placeholder(text, apart):
    assert set_apart(text) == apart


@given(text=st.lists(pieces, max_size=12).map("".join))
def test_no_text_keeps_a_reserved_word_after_setting_apart(text):
    apart = set_apart(text, RESERVED)

    assert not [word for word in RESERVED if word in apart]
    assert apart.replace(" ", "") == text.replace(" ", "")


@given(text=st.lists(pieces, max_size=12).map("".join))
def test_prompt_holds_as_many_placeholders_as_media_whatever_is_asked(text):
    prompt = one(f"Why {text}", (VIDEO, IMAGE, VIDEO), system=text).prompt(RESERVED)

    assert (prompt.count("<video>"), prompt.count("<image>")) == (2, 1)


@pytest.mark.parametrize("question", ["", " ", "\n\t "])
def test_empty_question_is_refused_with_an_example(question):
    with pytest.raises(UsageError, match="the question is empty: ask something, such as"):
        Turn(question)
