"""Several conversations about the same media answered together: each as it would be alone."""

import re
from dataclasses import replace

import pytest
import torch
from conversations import (
    about,
    answer,
    answers_together,
    collected,
    collected_ids,
    noise_clip,
    noise_image,
    reference_answer,
    requests_about,
    settings_for,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from videollava_cli.engine import Chunk, Request, Usage, in_order
from videollava_cli.engine.request import Detokenizer
from videollava_cli.engine.startup import load
from videollava_cli.errors import MemoryFullError, UsageError

QUESTIONS = ("What moves?", "Where to, and why?", "größer als 世界 🎬?", "A", "What moves?", "What?")
OPTIONS = (
    {},
    {"repetition_penalty": 1.5},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "seed": 5},
    {"temperature": 2.0, "repetition_penalty": 1.2, "seed": 1},
)


@pytest.fixture
def engine(mini):
    mini.clear_cache()
    return replace(mini)


@pytest.fixture(scope="module")
def media(mini):
    return [noise_clip(mini, 0), noise_image(mini, 1)]


@pytest.fixture(scope="module")
def eager(mini):
    return load(mini.settings.model, device="cpu", dtype="float32", attn_implementation="eager")


@pytest.fixture
def padding_only(mini):
    """Give the model an attention that we may give padding only, as Flash-Attention 2 is."""
    AttentionInterface.register("padding_only", sdpa_attention_forward)
    AttentionMaskInterface.register("padding_only", sdpa_mask)
    mini.clear_cache()
    mini.model.set_attn_implementation("padding_only")
    yield mini
    mini.model.set_attn_implementation("sdpa")


def asked_alone(engine, conversations, media, **options):
    texts = []
    for conversation in conversations:
        engine.clear_cache()
        texts.append(answer(engine, conversation, media, **options)[0])
    engine.clear_cache()
    return texts


def forward_lengths(engine, run):
    """Return how many tokens the language model is given each time it runs."""
    lengths = []

    def note(module, args, kwargs):
        lengths.append(kwargs["inputs_embeds"].shape[1])

    handle = engine.model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return lengths


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_answers_together_are_those_given_alone(engine, eager, media, options, attention):
    engine = eager if attention == "eager" else engine
    conversations = [about(media, question) for question in QUESTIONS]

    together, _ = answers_together(engine, conversations, media, **options)

    assert together == asked_alone(engine, conversations, media, **options)


def test_a_repetition_penalty_ignores_what_is_no_token_of_the_sequence(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]

    def prefer_id_0(module, args, logits):
        logits[..., 0] = 1.01 * logits.amax(-1)
        return logits

    handle = engine.model.lm_head.register_forward_hook(prefer_id_0)
    together, _ = answers_together(engine, conversations, media, repetition_penalty=1.5)
    alone = asked_alone(engine, conversations, media, repetition_penalty=1.5)
    handle.remove()

    assert together == alone


def test_answers_together_are_those_of_generate(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]

    together, _ = answers_together(engine, conversations, media)

    assert together == [reference_answer(engine, conversation, media) for conversation in conversations]


said = st.lists(st.sampled_from(QUESTIONS), min_size=1, max_size=5).filter(lambda texts: len(texts) % 2)
talks = st.lists(st.tuples(said, st.sampled_from([None, "You watch closely."])), min_size=1, max_size=5)


@hypothesis_settings(max_examples=25)
@given(talks, talks)
def test_any_conversations_together_are_answered_as_generate_would(mini, media, first, second):
    """Also where they share no more than a word, and media stand behind what they share; and once more, kept."""
    mini.clear_cache()
    for several in (first, second):
        conversations = [about(media, *texts, system=system) for texts, system in several]

        together, usages = answers_together(mini, conversations, media)

        assert together == [reference_answer(mini, conversation, media) for conversation in conversations]
        assert [usage.prompt_tokens for usage in usages] == [mini.count_tokens(each) for each in conversations]


def test_first_answer_pays_for_what_all_share(engine, media):
    conversations = [about(media, question) for question in ("What moves?", "Where to?", "Why?")]
    prefix = engine.count_tokens(about(media, "W")) - len(
        engine.tokenizer("W ASSISTANT:", add_special_tokens=False).input_ids
    )

    _, first = answers_together(engine, conversations, media)
    _, again = answers_together(engine, conversations, media)

    shared = first[1].cached_tokens
    assert [usage.cached_tokens for usage in first] == [0, shared, shared]
    assert [usage.cached_tokens for usage in again] == [shared] * 3
    assert prefix - 1 <= shared <= prefix + 1


def test_media_are_run_once_and_then_a_token_of_each_a_step(engine, media):
    conversations = [about(media, question) for question in ("What moves?", "Where to?", "Why?")]
    counts = [engine.count_tokens(conversation) for conversation in conversations]

    lengths = forward_lengths(engine, lambda: answers_together(engine, conversations, media, max_new_tokens=3))

    shared = lengths[0]
    assert lengths == [shared, sum(counts) - 3 * shared, 3, 3]


def test_answer_that_ended_is_run_no_further(engine, media):
    texts = ("What moves?", "Why?")
    requests = [
        Request(about([], text), (), settings_for(engine, max_new_tokens=budget))
        for text, budget in zip(texts, (2, 4), strict=True)
    ]

    lengths = forward_lengths(engine, lambda: collected(engine, requests))

    assert lengths[-3:] == [2, 1, 1]


def test_conversations_about_other_media_are_refused(engine, media):
    with pytest.raises(ValueError, match="not about the media given"):
        answers_together(engine, [about(media, "What moves?"), about([], "What?")], media)


def test_one_question_is_a_plain_stream(engine, media):
    conversation = about(media, "What moves?")

    together, (usage,) = answers_together(engine, [conversation], media)

    engine.clear_cache()
    text, alone = answer(engine, conversation, media)
    assert together == [text]
    assert (usage.cached_tokens, usage.new_tokens) == (alone.cached_tokens, alone.new_tokens)


def test_no_question_has_no_answer(engine):
    assert list(engine.answer([])) == []


def test_prompt_too_long_is_an_error_of_its_own_in_the_order_of_the_requests(engine):
    conversations = [about([], "What moves? " * 3000), about([], "What moves?")]
    requests = requests_about(engine, conversations, [])

    pairs = list(engine.answer(requests))

    assert [request is requests[0] for request, _ in pairs] == [True] + [False] * (len(pairs) - 1)
    failed, whole = pairs[0][1], pairs[-1][1]
    assert (failed.finish_reason, type(failed.error), failed.usage) == ("error", UsageError, None)
    assert "context" in str(failed.error)
    assert failed.prompt == engine.encoder.encoded(conversations[0]).text
    assert (whole.finish_reason, whole.prompt) == ("length", engine.encoder.encoded(conversations[1]).text)


def test_attention_that_takes_padding_only_has_a_row_for_each_sequence(padding_only, media):
    engine, conversations = padding_only, [about(media, question) for question in QUESTIONS]
    expected = [reference_answer(engine, conversation, media) for conversation in conversations]

    lengths = forward_lengths(engine, lambda: answers_together(engine, conversations, media, max_new_tokens=3))
    engine.clear_cache()
    together, usages = answers_together(engine, conversations, media)

    assert together == expected
    assert lengths[-2:] == [1, 1]
    assert max(lengths[1:]) < lengths[0] / 2  # the media are run once
    assert usages[0].cached_tokens == 0 < usages[1].cached_tokens <= usages[2].cached_tokens


def test_suffixes_over_the_bound_of_a_row_are_answered_in_several_rows(engine, media):
    """The bound is a full context of suffixes, so that the mask stays small."""
    long = "What moves, and where to? " * 60
    conversations = [about(media, f"{long} {question}") for question in QUESTIONS]
    length = engine.count_tokens(conversations[0])
    assert 2 * length < engine.checkpoint.context_length < 6 * length

    lengths = forward_lengths(engine, lambda: answers_together(engine, conversations, media))
    engine.clear_cache()
    together, usages = answers_together(engine, conversations, media)

    assert max(lengths) <= engine.checkpoint.context_length
    assert together == [reference_answer(engine, conversation, media) for conversation in conversations]
    assert all(usage.cached_tokens > 44 for usage in usages[1:])  # the clip and the image


def test_closing_in_the_middle_keeps_the_shared_prefix(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]
    chunks = engine.answer(requests_about(engine, conversations, media))

    next(chunks)
    chunks.close()

    text, usage = answer(engine, conversations[2], media)
    assert usage.cached_tokens > 44  # the clip and the image
    assert text == reference_answer(engine, conversations[2], media)


def test_interrupt_in_a_layer_leaves_the_next_answers_right(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]
    expected = asked_alone(engine, conversations, media)
    for at_call in (1, 2, 4):
        calls = []

        def interrupt(*_, calls=calls, at_call=at_call):
            calls.append(1)
            if len(calls) == at_call:
                raise KeyboardInterrupt

        handle = engine.model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            answers_together(engine, conversations, media)
        handle.remove()

        assert answers_together(engine, conversations, media)[0] == expected
        engine.clear_cache()


def test_out_of_memory_at_the_start_answers_fewer_at_once(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]
    expected = asked_alone(engine, conversations, media)

    def fail_for_several(module, args, kwargs):
        if kwargs.get("attention_mask") is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = engine.model.register_forward_pre_hook(fail_for_several, with_kwargs=True)
    together, usages = answers_together(engine, conversations, media)
    handle.remove()

    assert together == expected
    assert [usage.cached_tokens > 0 for usage in usages] == [False] + [True] * 5


def test_out_of_memory_after_the_first_words_is_a_generation_error(engine, media):
    conversations = [about(media, question) for question in QUESTIONS[:3]]
    chunks = engine.answer(requests_about(engine, conversations, media))
    next(chunks)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = engine.model.register_forward_pre_hook(fail)
    errors = [chunk.error for _, chunk in chunks if chunk.finish_reason == "error"]
    handle.remove()

    assert [type(error) for error in errors] == [MemoryFullError] * 3
    assert all(re.match(r"out of memory after \d tokens of the answer: try", str(error)) for error in errors)

    assert engine.nbytes == 0


def test_out_of_memory_in_the_middle_goes_on_where_the_answers_were(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]
    for options in OPTIONS:
        expected = asked_alone(engine, conversations, media, **options)
        calls = []

        def fail_once(*_, calls=calls):
            calls.append(1)
            if len(calls) == 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        handle = engine.model.register_forward_pre_hook(fail_once)
        together, _ = answers_together(engine, conversations, media, **options)
        handle.remove()

        assert together == expected
        assert engine.max_num_seqs == 3


class Arriving:
    """Requests of which some come late; None says that nothing waits now."""

    def __init__(self, *requests):
        self.requests = list(requests)

    def __iter__(self):
        return self

    def __next__(self):
        if not self.requests:
            raise StopIteration
        return self.requests.pop(0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("static_decode", [False, True])
def test_late_request_joins_a_running_batch_and_all_are_answered_as_alone(mini, media, options, static_decode):
    engine = replace(mini, static_decode=static_decode)
    others = [noise_clip(mini, 7), noise_image(mini, 8)]
    first, *_ = requests_about(engine, [about(media, QUESTIONS[0])], media, max_new_tokens=12, **options)
    late, later = requests_about(engine, [about(others, q) for q in QUESTIONS[1:3]], others, **options)
    expected = [
        answer(mini, each.conversation, each.media, **{"max_new_tokens": each.settings.max_new_tokens, **options})[0]
        for each in (first, late, later)
    ]

    pairs = list(engine.answer(Arriving(first, None, None, late, None, later)))

    texts = ["".join(chunk.text for request, chunk in pairs if request is each) for each in (first, late, later)]
    assert texts == expected
    order = [request for request, _ in pairs]
    assert order.index(late) == 3  # after three tokens of the first one
    assert order.index(later) < len(order) - 1 - order[::-1].index(first)
    if not options:
        assert texts[1] == reference_answer(mini, late.conversation, others)


def test_short_request_joins_a_row_that_is_longer_than_it(engine, media):
    questions = [
        f"What moves here, and where does it go in the end, question {number}?" for number in range(40)
    ]  # over 256 slots: a block
    many = requests_about(engine, [about(media, question) for question in questions], media, max_new_tokens=6)
    (late,) = requests_about(engine, [about([], "Why?")], [], max_new_tokens=6)
    pairs = list(engine.answer(Arriving(*many, None, None, late)))

    for request in (many[0], many[-1], late):
        text = "".join(chunk.text for each, chunk in pairs if each is request)
        assert text == reference_answer(engine, request.conversation, request.media, max_new_tokens=6)


def test_requests_are_taken_as_seats_become_free(engine, media):
    requests = requests_about(engine, [about(media, question) for question in QUESTIONS], media)
    taken = []

    def source():
        for request in requests:
            taken.append(request)
            yield request

    num_taken = [len(taken) for _ in engine.answer(source(), max_num_seqs=2)]

    assert num_taken[0] == 2
    assert num_taken[-1] == 6
    assert sorted(num_taken) == num_taken


def test_requests_with_settings_of_their_own_are_answered_together_as_alone(engine, media):
    settings = [settings_for(engine, **options) for options in OPTIONS]
    conversation = about(media, "What moves?")
    alone = [answer(engine, conversation, media, **options)[0] for options in OPTIONS]

    together, _ = collected(engine, [Request(conversation, tuple(media), each) for each in settings])

    assert together == alone


def test_token_ids_of_chunks_are_those_of_the_answer(engine, media):
    request = requests_about(engine, [about(media, "What moves?")], media)[0]

    (ids,) = collected_ids(engine, [request])

    detokenizer = Detokenizer(engine.tokenizer)
    text = "".join(map(detokenizer.add, ids)) + detokenizer.finish()
    assert text == answer(engine, request.conversation, media)[0]
    assert len(ids) == request.settings.max_new_tokens


def test_pieces_come_in_the_order_of_the_questions(engine):
    end = Usage(1, 0, 1, 0.0, 0.0, "float32")
    numbers = requests_about(engine, [about([], "What?")] * 3, [])
    grown = [(0, Chunk("a1")), (1, Chunk("b1")), (2, Chunk("", "stop", end)), (1, Chunk("b2", "stop", end))]
    grown += [(0, Chunk("a2")), (0, Chunk("", "stop", end))]
    passed_on = []

    def source():
        for number, chunk in grown:
            passed_on.append(chunk.text)
            yield numbers[number], chunk

    seen = [(numbers.index(request), chunk.text, len(passed_on)) for request, chunk in in_order(source())]

    assert seen == [(0, "a1", 1), (0, "a2", 5), (0, "", 6), (1, "b1", 6), (1, "b2", 6), (2, "", 6)]
