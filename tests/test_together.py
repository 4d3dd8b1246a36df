"""Several conversations about the same media answered together: each as it would be alone."""

import pytest
import torch
from conversations import about, answer, answers_together, noise_clip, noise_image, reference_answer, settings_for
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from videollava_cli.engine.chunks import Chunk, Usage, in_order
from videollava_cli.generation import Decoding, Rest, generate_behind, new_cache
from videollava_cli.generation import model as model_facts

from videollava_cli.engine import running
from videollava_cli.engine.startup import load
from videollava_cli.errors import GenerationError, UsageError

QUESTIONS = ("What moves?", "Where to, and why?", "größer als 世界 🎬?", "A", "What moves?", "What?")
OPTIONS = (
    {},
    {"repetition_penalty": 1.5},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "seed": 5},
    {"temperature": 2.0, "repetition_penalty": 1.2, "seed": 1},
)


@pytest.fixture
def engine(mini):
    mini.forget()
    return mini


@pytest.fixture(scope="module")
def media(mini):
    return [noise_clip(mini, 0), noise_image(mini, 1)]


@pytest.fixture(scope="module")
def eager(mini):
    return load(mini.settings.model, device="cpu", attn_implementation="eager")


@pytest.fixture
def without_masks(monkeypatch):
    """Treat this attention as one that takes padding only, as Flash-Attention 2 does."""
    monkeypatch.setattr(model_facts, "MASKABLE_ATTENTION", frozenset())


def asked_alone(engine, conversations, media, **options):
    texts = []
    for conversation in conversations:
        engine.forget()
        texts.append(answer(engine, conversation, media, **options)[0])
    engine.forget()
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


def test_what_fills_a_shorter_prompt_up_is_not_taken_for_said(engine, media):
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
    mini.forget()
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


def test_answer_that_ended_is_run_no_further(engine):
    rests = [Rest(engine.tokenizer(question).input_ids) for question in ("What moves?", "Why?")]
    cache = new_cache(engine.model.config)
    steps = generate_behind(engine.model, cache, rests, Decoding((2, 4), frozenset()))

    lengths = forward_lengths(engine, lambda: list(steps))

    assert lengths == [sum(len(rest.ids) for rest in rests), 2, 1, 1]


def test_conversations_about_other_media_are_refused(engine, media):
    with pytest.raises(ValueError, match="not about the media given"):
        answers_together(engine, [about(media, "What moves?"), about([], "What?")], media)


def test_one_question_is_a_plain_stream(engine, media):
    conversation = about(media, "What moves?")

    together, (usage,) = answers_together(engine, [conversation], media)

    engine.forget()
    text, alone = answer(engine, conversation, media)
    assert together == [text]
    assert (usage.cached_tokens, usage.new_tokens) == (alone.cached_tokens, alone.new_tokens)


def test_no_question_has_no_answer(engine, media):
    assert list(engine.stream_together([], media)) == []


def test_one_prompt_too_long_refuses_all_before_anything_runs(engine):
    conversations = [about([], "What moves?"), about([], "What moves? " * 3000)]

    with pytest.raises(UsageError, match="context"):
        next(engine.stream_together(conversations, []))

    assert engine.kept_bytes == 0


def test_attention_without_masks_answers_one_after_another_on_the_kept_prefix(engine, media, without_masks):
    conversations = [about(media, question) for question in QUESTIONS[:3]]
    expected = asked_alone(engine, conversations, media)

    lengths = forward_lengths(engine, lambda: answers_together(engine, conversations, media, max_new_tokens=1))
    engine.forget()
    together, usages = answers_together(engine, conversations, media)

    assert together == expected
    assert max(lengths[1:]) < lengths[0] / 2
    assert usages[0].cached_tokens == 0 < usages[1].cached_tokens <= usages[2].cached_tokens


def test_branches_over_their_bound_are_answered_in_groups(engine, media, monkeypatch):
    conversations = [about(media, question) for question in QUESTIONS]
    expected = asked_alone(engine, conversations, media)
    prompts = [engine._prompt(conversation, media) for conversation in conversations]
    monkeypatch.setattr(running, "BRANCHES_BYTES", 40 * 2 * 2 * 64 * 4)  # tokens, keys and values, layers, numbers

    groups = list(engine._runner.groups(prompts, settings_for(engine)))
    together, usages = answers_together(engine, conversations, media)

    assert [number for group in groups for number in group] == list(range(len(QUESTIONS)))
    assert 1 < len(groups) < len(QUESTIONS)
    assert together == expected
    assert all(usage.cached_tokens > 0 for usage in usages[1:])


def test_closing_in_the_middle_keeps_the_shared_prefix(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]
    chunks = engine.stream_together(conversations, media, settings_for(engine))

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
        engine.forget()


def test_out_of_memory_at_the_start_answers_one_after_another(engine, media):
    conversations = [about(media, question) for question in QUESTIONS]
    expected = asked_alone(engine, conversations, media)

    def fail_for_several(module, args, kwargs):
        if kwargs["attention_mask"].ndim == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = engine.model.register_forward_pre_hook(fail_for_several, with_kwargs=True)
    together, usages = answers_together(engine, conversations, media)
    handle.remove()

    assert together == expected
    assert [usage.cached_tokens > 0 for usage in usages] == [False] + [True] * 5


def test_out_of_memory_after_the_first_words_is_a_generation_error(engine, media):
    conversations = [about(media, question) for question in QUESTIONS[:3]]
    chunks = engine.stream_together(conversations, media, settings_for(engine))
    next(chunks)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = engine.model.register_forward_pre_hook(fail)
    with pytest.raises(GenerationError, match=r"out of memory after \d tokens"):
        list(chunks)
    handle.remove()

    assert engine.kept_bytes == 0


def test_pieces_come_in_the_order_of_the_questions():
    end = Usage(1, 0, 1, 0.0, 0.0)
    grown = [(1, Chunk("b1")), (0, Chunk("a1")), (2, Chunk("", "stop", end)), (1, Chunk("b2", "stop", end))]
    grown += [(0, Chunk("a2")), (0, Chunk("", "stop", end))]
    passed_on = []

    def source():
        for number, chunk in grown:
            passed_on.append(chunk.text)
            yield number, chunk

    seen = [(number, chunk.text, len(passed_on)) for number, chunk in in_order(source())]

    assert seen == [(0, "a1", 2), (0, "a2", 5), (0, "", 6), (1, "b1", 6), (1, "b2", 6), (2, "", 6)]
