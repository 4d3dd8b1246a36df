"""What an engine keeps from one answer to the next: cached equals uncached, whatever happened before."""

from contextlib import closing, contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from conversations import (
    about,
    answer,
    image_argument,
    noise_clip,
    noise_image,
    reference_answer,
    sequence_about,
    settings_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from videollava_cli.engine.kv_cache import BLOCK_TOKENS, KVCacheLayer, PrefixCache
from videollava_cli.engine.model_access import EncoderCache
from videollava_cli.errors import GenerationError, UsageError
from videollava_cli.preprocessing import pixel_values
from videollava_cli.prompt import Conversation, Turn

WORDS = ("What moves?", "Where to?", "A red circle moves.", "größer als 世界", "Why, in this video?", "It is red.")


@contextmanager
def counted(module):
    """Count how often a module runs, by one of torch's own hooks."""
    calls = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def failing(module, error, *, at_call):
    """Raise an error when a module has run so many times; afterwards it runs as ever."""
    calls = []

    def count(*_):
        calls.append(1)
        if len(calls) == at_call:
            raise error

    handle = module.register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def num_kept_in_common(engine, conversations):
    """Return how many first tokens two text prompts share."""
    rows = [engine.encoder.encode(conversation).token_ids for conversation in conversations]
    return next(place for place, (one, other) in enumerate(zip(*rows, strict=False)) if one != other)


@pytest.fixture
def engine(mini):
    mini.clear_cache()
    return mini


@pytest.fixture(scope="module")
def shown(mini):
    """Two clips and two images of noise."""
    return [noise_clip(mini, 0), noise_image(mini, 1), noise_clip(mini, 2), noise_image(mini, 3)]


turns = st.lists(
    st.tuples(st.sampled_from(WORDS), st.lists(st.integers(0, 3), max_size=2), st.sampled_from(WORDS)),
    min_size=1,
    max_size=4,
)
asked = st.tuples(turns, st.sampled_from([None, "You watch closely.", "Say little."]), st.integers(0, 6))


@settings(max_examples=40)
@given(st.lists(asked, min_size=1, max_size=4))
def test_answers_of_any_conversations_one_after_another_are_those_of_generate(mini, shown, conversations):
    """Turns, media at any turn, edits of what was said before, answers given up after some chunks."""
    mini.clear_cache()
    for said, system, num_chunks in conversations:
        *past, last = said
        talk = [Turn(question, answer, tuple(shown[m].kind for m in media)) for question, media, answer in past]
        talk.append(Turn(last[0], None, tuple(shown[m].kind for m in last[1])))
        conversation = Conversation(tuple(talk), system=system)
        media = [shown[m] for _, numbers, _ in said for m in numbers]

        with closing(mini.stream(conversation, media, settings_for(mini))) as chunks:
            for _ in zip(range(num_chunks), chunks, strict=False):
                pass  # given up here, unless it ended before

        assert answer(mini, conversation, media)[0] == reference_answer(mini, conversation, media)


def test_next_turn_runs_only_what_is_new(engine, shown):
    clip = shown[0]
    text, first = answer(engine, about([clip], "What moves?"), [clip])
    follow_up = about([clip], "What moves?", text, "Where to?")

    _, second = answer(engine, follow_up, [clip])

    assert (first.cached_tokens, first.prompt_tokens) == (0, engine.count_tokens(about([clip], "What moves?")))
    assert first.prompt_tokens <= second.cached_tokens < second.prompt_tokens


def test_same_prompt_again_runs_its_last_token(engine, shown):
    conversation = about([shown[0]], "What moves?")
    text, _ = answer(engine, conversation, [shown[0]])

    again, usage = answer(engine, conversation, [shown[0]])

    assert (again, usage.cached_tokens) == (text, usage.prompt_tokens - 1)


def test_edited_turn_shares_what_stands_before_the_edit(engine):
    question = "What moves, and where to, and why, in this video that you watch?"
    one, other = about([], question, "A red circle.", "Why?"), about([], question, "A blue one.", "Why?")
    answer(engine, one, [])

    _, usage = answer(engine, other, [])

    assert usage.cached_tokens == num_kept_in_common(engine, (one, other))


def test_another_clip_with_the_same_text_shares_nothing_behind_the_placeholder(engine, shown):
    one, other = shown[0], shown[2]
    answer(engine, about([one], "What moves?"), [one])

    text, usage = answer(engine, about([other], "What moves?"), [other])

    assert usage.cached_tokens == 0  # a hit of a few tokens, USER:, would save nothing
    assert text == reference_answer(engine, about([other], "What moves?"), [other])


def test_clip_and_image_of_the_same_bytes_are_told_apart(mini):
    clip, image = (
        sequence_about(mini, about([medium], "What?"), [medium])
        for medium in (noise_clip(mini, 5), noise_image(mini, 5))
    )

    assert clip.keys[clip.media[0].start] != image.keys[image.media[0].start]


def test_towers_run_once_for_a_medium_whatever_comes_before_it(engine, shown):
    clip, image = shown[0], shown[1]
    towers = engine.model.model.video_tower, engine.model.model.image_tower

    with counted(towers[0]) as clips, counted(towers[1]) as images:
        for system in (None, "You watch closely.", "Say little."):
            text, _ = answer(engine, about([image, clip], "What moves?", system=system), [image, clip])

            assert text == reference_answer(engine, about([image, clip], "What moves?", system=system), [image, clip])
            clips.pop(), images.pop()  # the reference's own

    assert (len(clips), len(images)) == (1, 1)


def test_features_in_place_of_pixel_values_give_the_very_same_keys_and_values(mini, shown):
    for medium, kind in ((shown[0], "pixel_values_videos"), (shown[1], image_argument(mini.model))):
        sequence = sequence_about(mini, about([medium], "What moves?"), [medium])
        ours = PrefixCache(mini.model.config).acquire(sequence.keys)
        theirs = DynamicCache(config=mini.model.config.get_text_config())
        pixels = medium.pixels if kind == "pixel_values_videos" else medium.pixels[0]
        features = EncoderCache(mini.model, mini.checkpoint.pixels).get(sequence.media)

        mini.runner.prefill(ours, [sequence], features)
        ids = torch.tensor([sequence.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs[kind] = pixel_values(pixels, mini.checkpoint.pixels)[None]
        with torch.inference_mode():
            mini.model(**inputs, past_key_values=theirs, use_cache=True)

        for layer, their_layer in zip(ours.cache.layers, theirs.layers, strict=True):
            assert torch.equal(layer.keys, their_layer.keys)
            assert torch.equal(layer.values, their_layer.values)


def test_features_over_the_limit_drop_the_least_recently_used(mini):
    noise = [noise_image(mini, seed) for seed in range(3)]
    images = [sequence_about(mini, about([image], "What?"), [image]).media for image in noise]
    one_image = 4 * 64 * 4  # tokens, numbers, bytes
    cache = EncoderCache(mini.model, mini.checkpoint.pixels, max_bytes=2 * one_image)

    with counted(mini.model.model.image_tower) as runs:
        for number in (0, 1, 0, 2, 0, 1):
            cache.get(images[number])
            assert cache.nbytes <= 2 * one_image

    assert len(runs) == 4  # the image 1 went for 2, and was wanted again


def test_bytes_kept_are_those_of_the_cache_and_the_features(engine, shown):
    assert engine.nbytes == 0

    _, usage = answer(engine, about([shown[0]], "What moves?"), [shown[0]])

    a_token = 2 * 2 * 64 * 4  # keys and values, layers, numbers, bytes
    assert usage.prompt_tokens + usage.new_tokens <= BLOCK_TOKENS
    assert engine.nbytes == BLOCK_TOKENS * a_token + 40 * 64 * 4
    engine.clear_cache()
    assert engine.nbytes == 0


def test_interrupt_in_the_middle_of_a_layer_leaves_the_next_answer_right(engine, shown):
    conversation = about([shown[0]], "What moves?")
    layers = engine.model.model.language_model.layers
    for at_call in (1, 2, 4):
        for layer in layers:
            with failing(layer, KeyboardInterrupt(), at_call=at_call), pytest.raises(KeyboardInterrupt):
                answer(engine, conversation, [shown[0]])

            text, usage = answer(engine, conversation, [shown[0]])

            assert text == reference_answer(engine, conversation, [shown[0]])
            assert usage.cached_tokens == (0 if at_call == 1 else usage.prompt_tokens - 1)
            engine.clear_cache()


def test_second_answer_begun_before_the_first_one_ended_is_right(engine, shown):
    media = [shown[0]]
    one, other = about(media, "What moves?"), about(media, "Where to?")
    expected = [reference_answer(engine, conversation, media) for conversation in (one, other)]

    streams = [engine.stream(conversation, media, settings_for(engine)) for conversation in (one, other)]
    texts = ["", ""]
    for chunks in zip(*streams, strict=False):
        texts = [text + chunk.text for text, chunk in zip(texts, chunks, strict=True)]
    texts = [text + "".join(chunk.text for chunk in stream) for text, stream in zip(texts, streams, strict=True)]

    assert texts == expected
    assert answer(engine, one, media)[0] == expected[0]


def test_nothing_is_kept_of_a_prompt_that_never_ran(engine):
    fault = failing(engine.model.model.language_model, RuntimeError("the card fell off"), at_call=1)
    with fault, pytest.raises(RuntimeError, match="the card fell off"):
        answer(engine, about([], "What moves?"), [])

    assert engine.nbytes == 0


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_drops_what_is_kept_and_tries_once_more(engine, shown):
    answer(engine, about([shown[2]], "What moves?"), [shown[2]])
    conversation = about([shown[0]], "What moves?")
    expected = reference_answer(engine, conversation, [shown[0]])
    kept = []

    def count_kept(*_):
        kept.append(engine.nbytes)

    with failing(engine.model.lm_head, out_of_memory(), at_call=1):
        handle = engine.model.model.video_tower.register_forward_hook(count_kept)
        text, usage = answer(engine, conversation, [shown[0]])
        handle.remove()

    assert (text, usage.cached_tokens) == (expected, 0)
    assert [num_bytes > 0 for num_bytes in kept] == [True, False]


def test_out_of_memory_twice_is_a_generation_error_and_keeps_nothing(engine, shown):
    def fail(*_):
        raise out_of_memory()

    handle = engine.model.lm_head.register_forward_hook(fail)
    with pytest.raises(GenerationError, match="out of memory after 0 tokens of the answer"):
        answer(engine, about([shown[0]], "What moves?"), [shown[0]])
    handle.remove()

    assert engine.nbytes == 0
    assert answer(engine, about([shown[0]], "What moves?"), [shown[0]])[1].cached_tokens == 0


def test_out_of_memory_in_the_middle_of_an_answer_is_not_tried_again(engine):
    fault = failing(engine.model.lm_head, out_of_memory(), at_call=4)
    message = "out of memory after 3 tokens of the answer"
    with fault as calls, pytest.raises(GenerationError, match=message):
        answer(engine, about([], "What moves?"), [])

    assert (len(calls), engine.nbytes) == (4, 0)


def test_tokens_are_counted_even_of_what_does_not_fit(engine):
    short, long = about([], "What moves?"), about([], "What moves? " * 3000)

    assert engine.count_tokens(short) == answer(engine, short, [])[1].prompt_tokens
    assert engine.count_tokens(long) > engine.checkpoint.context_length
    with pytest.raises(UsageError, match="context"):
        answer(engine, long, [])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 600)), min_size=1, max_size=8))
def test_layer_that_grows_in_place_holds_what_transformers_own_does(steps):
    ours, theirs = KVCacheLayer(), DynamicLayer()
    generator = torch.Generator().manual_seed(0)
    for num_new, kept in steps:
        keys, values = torch.randn(2, 1, 2, num_new, 4, generator=generator)

        found, expected = ours.update(keys, values), theirs.update(keys, values)

        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        length = min(kept, theirs.get_seq_length())
        ours.crop(length)
        theirs.keys, theirs.values = theirs.keys[..., :length, :], theirs.values[..., :length, :]
        assert ours.get_seq_length() == length
        assert ours.storage[0].shape[-2] % BLOCK_TOKENS == 0


def test_few_tokens_in_common_start_an_empty_cache(mini):
    cache, sequence = PrefixCache(mini.model.config), sequence_about(mini, about([], "What moves?"), [])
    prefix = cache.acquire(sequence.keys)
    mini.runner.prefill(prefix, [sequence], [])
    cache.release(prefix)

    taken = cache.acquire([*sequence.keys[:4], -1])

    assert (taken.keys, taken.cache.get_seq_length(), cache.nbytes) == ([], 0, 0)


def test_kept_tokens_grow_from_turn_to_turn(engine, shown):
    said, cached = ["What moves?"], []
    for question in ("Where to?", "And then?", "Why?"):
        text, usage = answer(engine, about([shown[0]], *said), [shown[0]])
        cached.append(usage.cached_tokens)
        said += [text or "Nothing.", question]

    assert all(one < other for one, other in pairwise(cached))
    assert np.all(np.diff([0, *cached[1:]]) > 0)
