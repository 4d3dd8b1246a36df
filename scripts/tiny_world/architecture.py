"""The bundled model's make-up: its configuration, its tokenizer, its image processor settings."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaImageProcessor,
)

IMAGE_SIDE = 56  # pixels
PATCH_SIDE = 14  # pixels, as in the 7B
GRID = IMAGE_SIDE // PATCH_SIDE
TOWER_WIDTH = 128
TEXT_WIDTH = 224
NUM_FRAMES = 8
CONTEXT_LENGTH = 512  # a conversation of ten turns fits beside a clip, and three clips
FIRST_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
LAST_TOKENS = ["<image>", "<video>", "<pad>"]  # in the order of the 7B's ids 32000 to 32002


def make_config(tokenizer: PreTrainedTokenizerFast) -> VideoLlavaConfig:
    """Return the bundled model's configuration: two small CLIP towers and a small Llama."""
    layers: dict[str, Any] = {"intermediate_size": 512, "num_hidden_layers": 4}
    vision = CLIPVisionConfig(
        **layers,
        hidden_size=TOWER_WIDTH,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
        projection_dim=128,
    )
    text = {"intermediate_size": 448, "num_hidden_layers": 5, "hidden_size": TEXT_WIDTH, "num_attention_heads": 7}
    text["max_position_embeddings"] = CONTEXT_LENGTH
    # The 7B takes layer -2, which would leave one of four layers unused.
    return assemble_config(tokenizer, vision, text, vision_feature_layer=-1)


def assemble_config(
    tokenizer: PreTrainedTokenizerFast, vision: Any, text: dict[str, Any], **more: Any
) -> VideoLlavaConfig:
    """Return the configuration of two towers and a Llama, whose options are `text`, with a tokenizer's ids."""
    num_patches = (vision.image_size // vision.patch_size) ** 2
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return VideoLlavaConfig(  # type: ignore[call-arg]  # its attribute map takes the newer names
        vision_config=vision,
        text_config=LlamaConfig(**{"vocab_size": len(tokenizer)} | ids | text),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_select_strategy="default",
        image_seq_length=num_patches,
        video_seq_length=(num_patches + 1) * NUM_FRAMES,
        tie_word_embeddings=False,
        **more,
    )


def make_image_processor(side: int = IMAGE_SIDE) -> VideoLlavaImageProcessor:
    """Return the 7B's image processor with another side, in pixels."""
    return VideoLlavaImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def train_tokenizer(
    corpus: Iterable[str], *, vocab_size: int = 1536, context_length: int = CONTEXT_LENGTH, is_filled: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-fallback BPE tokenizer laid out like Llama's: specials, bytes, pieces, placeholders.

    Digits and punctuation stand alone, so that "Yes." begins with the token of "Yes".

    Where the corpus has fewer pieces than the vocabulary holds, `is_filled` adds words that no text is encoded to.
    """
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = _splitter()
    num_pieces = vocab_size - len(FIRST_TOKENS) - len(LAST_TOKENS)
    alphabet = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    draft.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=num_pieces, initial_alphabet=alphabet, show_progress=False)
    )
    vocab = draft.get_vocab()
    pieces = sorted(vocab, key=vocab.__getitem__)
    fillers = [f"▁word{number}" for number in range(num_pieces - len(pieces))] if is_filled else []
    tokens = [*FIRST_TOKENS, *pieces, *fillers, *LAST_TOKENS]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in json.loads(draft.to_str())["model"]["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _splitter()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", FIRST_TOKENS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<video>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=context_length,
    )


def _splitter() -> pre_tokenizers.PreTokenizer:
    steps = (
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Punctuation(),
    )
    return pre_tokenizers.Sequence(list(steps))
