"""What an engine keeps from one answer to the next: cached equals uncached, whatever happened before."""

from contextlib import closing, contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from conversations import about, answer, noise_clip, noise_image, reference_answer, settings_for
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from videollava_cli.engine.features import FeatureStore
from videollava_cli.engine.prefix import KeptPrefix, prompt_of
from videollava_cli.engine.prompting import prompt_ids, prompt_text
from videollava_cli.generation import Rest, image_argument, new_cache, prefill
from videollava_cli.generation.caching import ROOM_TOKENS, GrowingLayer

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
    rows = [prompt_ids(prompt_text(c, engine.tokenizer), engine.tokenizer, engine.checkpoint) for c in conversations]
    return next(place for place, (one, other) in enumerate(zip(*rows, strict=False)) if one != other)


@pytest.fixture
def engine(mini):
    mini.forget()
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
    mini.forget()
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
    one, other = about([], "What moves?", "A red circle.", "Why?"), about([], "What moves?", "A blue one.", "Why?")
    answer(engine, one, [])

    _, usage = answer(engine, other, [])

    assert usage.cached_tokens == num_kept_in_common(engine, (one, other))


def test_another_clip_with_the_same_text_shares_nothing_behind_the_placeholder(engine, shown):
    one, other = shown[0], shown[2]
    before = prompt_ids("USER:", engine.tokenizer, engine.checkpoint)
    answer(engine, about([one], "What moves?"), [one])

    text, usage = answer(engine, about([other], "What moves?"), [other])

    assert usage.cached_tokens in (len(before), len(before) + 1)  # a space before the placeholder may be a token
    assert text == reference_answer(engine, about([other], "What moves?"), [other])


def test_clip_and_image_of_the_same_bytes_are_told_apart(mini):
    clip, image = noise_clip(mini, 5), noise_image(mini, 5)
    lengths = {mini.checkpoint.video_token_id: 2, mini.checkpoint.image_token_id: 2}

    keys = [
        prompt_of([token, token], [medium], lengths).keys for token, medium in zip(lengths, (clip, image), strict=True)
    ]

    assert keys[0][0] == keys[0][1] != keys[1][0]


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
        conversation = about([medium], "What moves?")
        ids = prompt_ids(prompt_text(conversation, mini.tokenizer), mini.tokenizer, mini.checkpoint)
        lengths = {mini.checkpoint.video_token_id: 40, mini.checkpoint.image_token_id: 4}
        features = FeatureStore().of(prompt_of(ids, [medium], lengths).placed, mini.model, mini.checkpoint.pixels)
        caches = [new_cache(mini.model.config), DynamicCache(config=mini.model.config.get_text_config())]
        pixels = medium.pixels if kind == "pixel_values_videos" else medium.pixels[0]

        prefill(mini.model, caches[0], Rest(ids, features))
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
        inputs[kind] = pixel_values(pixels, mini.checkpoint.pixels)[None]
        with torch.inference_mode():
            mini.model(**inputs, past_key_values=caches[1], use_cache=True)

        for ours, theirs in zip(caches[0].layers, caches[1].layers, strict=True):
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)


def test_features_over_the_limit_drop_the_least_recently_used(mini):
    prompts = [
        prompt_of([mini.checkpoint.image_token_id] * 4, [noise_image(mini, seed)], {mini.checkpoint.image_token_id: 4})
        for seed in range(3)
    ]
    one_image = 4 * 64 * 4  # tokens, numbers, bytes
    store = FeatureStore(limit_bytes=2 * one_image)

    with counted(mini.model.model.image_tower) as runs:
        for number in (0, 1, 0, 2, 0, 1):
            store.of(prompts[number].placed, mini.model, mini.checkpoint.pixels)
            assert store.num_bytes <= 2 * one_image

    assert len(runs) == 4  # the image 1 went for 2, and was wanted again


def test_bytes_kept_are_those_of_the_cache_and_the_features(engine, shown):
    assert engine.kept_bytes == 0

    _, usage = answer(engine, about([shown[0]], "What moves?"), [shown[0]])

    a_token = 2 * 2 * 64 * 4  # keys and values, layers, numbers, bytes
    assert usage.prompt_tokens + usage.new_tokens <= ROOM_TOKENS
    assert engine.kept_bytes == ROOM_TOKENS * a_token + 40 * 64 * 4
    engine.forget()
    assert engine.kept_bytes == 0


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
            engine.forget()


def test_interrupt_between_a_layers_keys_and_values_leaves_them_equally_long(engine, shown):
    conversation = about([], "What moves?")
    text, _ = answer(engine, conversation, [])
    kept = engine._runner.prefix
    keys = list(kept._keys)
    cache = kept.take(keys, engine.model.config)
    layer = cache.layers[0]
    layer.keys = layer.rooms[0][..., : layer.keys.shape[-2] + 1, :]

    kept.put(cache, keys)

    assert {states.shape[-2] for each in cache.layers for states in (each.keys, each.values)} == {len(keys)}
    assert answer(engine, conversation, [])[0] == text


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

    assert engine.kept_bytes == 0


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_drops_what_is_kept_and_tries_once_more(engine, shown):
    answer(engine, about([shown[2]], "What moves?"), [shown[2]])
    conversation = about([shown[0]], "What moves?")
    expected = reference_answer(engine, conversation, [shown[0]])
    kept = []

    def count_kept(*_):
        kept.append(engine.kept_bytes)

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

    assert engine.kept_bytes == 0
    assert answer(engine, about([shown[0]], "What moves?"), [shown[0]])[1].cached_tokens == 0


def test_out_of_memory_in_the_middle_of_an_answer_is_not_tried_again(engine):
    fault = failing(engine.model.lm_head, out_of_memory(), at_call=4)
    message = "out of memory after 3 tokens of the answer"
    with fault as calls, pytest.raises(GenerationError, match=message):
        answer(engine, about([], "What moves?"), [])

    assert (len(calls), engine.kept_bytes) == (4, 0)


def test_tokens_are_counted_even_of_what_does_not_fit(engine):
    short, long = about([], "What moves?"), about([], "What moves? " * 3000)

    assert engine.count_tokens(short) == answer(engine, short, [])[1].prompt_tokens
    assert engine.count_tokens(long) > engine.checkpoint.context_length
    with pytest.raises(UsageError, match="context"):
        answer(engine, long, [])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 600)), min_size=1, max_size=8))
def test_layer_that_grows_in_place_holds_what_transformers_own_does(steps):
    ours, theirs = GrowingLayer(), DynamicLayer()
    generator = torch.Generator().manual_seed(0)
    for num_new, kept in steps:
        keys, values = torch.randn(2, 1, 2, num_new, 4, generator=generator)

        found, expected = ours.update(keys, values), theirs.update(keys, values)

        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        length = min(kept, theirs.get_seq_length())
        ours.cut(length)
        theirs.keys, theirs.values = theirs.keys[..., :length, :], theirs.values[..., :length, :]
        assert ours.get_seq_length() == length
        assert ours.rooms[0].shape[-2] % ROOM_TOKENS == 0


def test_nothing_in_common_starts_a_new_cache(mini):
    kept = KeptPrefix()
    cache = kept.take([1, 2], mini.model.config)
    prefill(mini.model, cache, Rest([1, 2, 3]))
    kept.put(cache, [1, 2, 3])

    assert kept.take([7], mini.model.config).get_seq_length() == 0
    assert kept.num_bytes == 0


def test_kept_tokens_grow_from_turn_to_turn(engine, shown):
    said, cached = ["What moves?"], []
    for question in ("Where to?", "And then?", "Why?"):
        text, usage = answer(engine, about([shown[0]], *said), [shown[0]])
        cached.append(usage.cached_tokens)
        said += [text or "Nothing.", question]

    assert all(one < other for one, other in pairwise(cached))
    assert np.all(np.diff([0, *cached[1:]]) > 0)
