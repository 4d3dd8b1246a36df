"""Conversations for tests of the engine, and what transformers alone answers to them."""

import inspect
from dataclasses import replace
from itertools import takewhile

import numpy as np
import torch

from videollava_cli.engine import Request
from videollava_cli.engine.model_access import end_of_answer_ids
from videollava_cli.engine.request import Detokenizer, Sequence
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.preprocessing import pixel_values
from videollava_cli.prompt import Conversation, Turn

NUM_NEW = 6


def image_argument(model):
    """Return what `forward` calls an image's pixels: `pixel_values`, before transformers 5.23 `pixel_values_images`."""
    names = inspect.signature(model.forward).parameters
    return "pixel_values" if "pixel_values" in names else "pixel_values_images"


def noise_image(engine, seed):
    """Return an image of noise."""
    side = engine.checkpoint.pixels.crop_side
    pixels = np.random.default_rng(seed).integers(0, 256, (1, side, side, 3), np.uint8)
    return Medium(f"image {seed}", MediaKind.IMAGE, pixels)


def noise_clip(engine, seed):
    """Return a clip of noise."""
    side = engine.checkpoint.pixels.crop_side
    frames = np.random.default_rng(seed).integers(0, 256, (8, side, side, 3), np.uint8)
    return Medium(f"clip {seed}", MediaKind.VIDEO, frames, tuple(FrameStamp(i, i / 8) for i in range(8)))


def about(media, *questions, system=None):
    """Return a conversation about media: questions and answers in turn, the last question open."""
    answers = [*questions[1::2], None]
    turns = [Turn(question, answer) for question, answer in zip(questions[::2], answers, strict=True)]
    return Conversation.about([medium.kind for medium in media], turns, system=system)


def settings_for(engine, **options):
    """Return the engine's settings with a small budget."""
    return replace(engine.settings, **{"max_new_tokens": NUM_NEW, **options})


def answer(engine, conversation, media, **options):
    """Return an answer's text and its usage."""
    chunks = list(engine.stream(conversation, media, settings_for(engine, **options)))
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage


def answers_together(engine, conversations, media, **options):
    """Return the text and the usage of each answer."""
    return collected(engine, requests_about(engine, conversations, media, **options))


def requests_about(engine, conversations, media, **options):
    """Return requests about the same media, with a small budget."""
    return [Request(each, tuple(media), settings_for(engine, **options)) for each in conversations]


def sequence_about(engine, conversation, media, **options):
    """Return a request's sequence, as the scheduler makes it."""
    (request,) = requests_about(engine, [conversation], media, **options)
    sequence = Sequence(0, request, engine.encoder.encode(conversation), engine.checkpoint.context_length)
    sequence.place_media(engine.encoder.media_tokens)
    return sequence


def collected(engine, requests, **options):
    """Answer requests; return the text and the usage of each, and raise the first error."""
    texts, usages = dict.fromkeys(requests, ""), dict.fromkeys(requests)
    for request, chunk in engine.answer(requests, **options):
        if chunk.error is not None:
            raise chunk.error
        assert usages[request] is None
        texts[request], usages[request] = texts[request] + chunk.text, chunk.usage
    return list(texts.values()), list(usages.values())


def collected_ids(engine, requests, **options):
    """Answer requests; return the token ids of each, with those that end answers."""
    ids = {request: [] for request in requests}
    for request, chunk in engine.answer(requests, **options):
        ids[request] += chunk.token_ids
    return list(ids.values())


def reference_answer(engine, conversation, media, max_new_tokens=NUM_NEW, **options):
    """Return the text of `model.generate` over the whole prompt, given the pixel values."""
    ids = list(engine.encoder.encode(conversation).token_ids)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    pictures = [medium.pixels[0] for medium in media if medium.kind is MediaKind.IMAGE]
    clips = [medium.pixels for medium in media if medium.kind is MediaKind.VIDEO]
    for name, shown in ((image_argument(engine.model), pictures), ("pixel_values_videos", clips)):
        if shown:
            inputs[name] = pixel_values(np.stack(shown), engine.checkpoint.pixels)
    output = engine.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **options)[
        0, len(ids) :
    ].tolist()
    detokenizer = Detokenizer(engine.tokenizer)
    pieces = [
        detokenizer.add(token)
        for token in takewhile(lambda token: token not in end_of_answer_ids(engine.model), output)
    ]
    return "".join([*pieces, detokenizer.finish()])


def only_conversation(home):
    """Return the file of the one conversation that is kept below a state home."""
    (path,) = home.glob("vllava/conversations/*.json")
    return path
