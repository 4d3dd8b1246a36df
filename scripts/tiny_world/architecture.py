"""The bundled model's make-up: its configuration, its tokenizer, its image processor settings."""

import json
from collections.abc import Iterable

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
TEXT_WIDTH = 192
NUM_FRAMES = 8
CONTEXT_LENGTH = 256  # as in the 7B (4,096), one clip fits and two do not
FIRST_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
LAST_TOKENS = ["<image>", "<video>", "<pad>"]  # in the order of the 7B's ids 32000 to 32002


def make_config(tokenizer: PreTrainedTokenizerFast) -> VideoLlavaConfig:
    """Return the configuration: two small CLIP towers and a small Llama."""
    vision = CLIPVisionConfig(
        hidden_size=TOWER_WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    return VideoLlavaConfig(  # type: ignore[call-arg]  # its attribute map takes the newer names
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,  # the 7B takes -2, which would leave one of four layers unused
        image_seq_length=GRID**2,
        video_seq_length=(GRID**2 + 1) * NUM_FRAMES,
        tie_word_embeddings=False,
    )


def make_image_processor() -> VideoLlavaImageProcessor:
    """Return the image processor of the bundled model; all but the side is as in the 7B."""
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return VideoLlavaImageProcessor(size={"shortest_edge": IMAGE_SIDE}, crop_size=side)


def train_tokenizer(
    corpus: Iterable[str], *, vocab_size: int = 1024, context_length: int = CONTEXT_LENGTH, is_filled: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-fallback BPE tokenizer laid out like Llama's: specials, bytes, pieces, placeholders.

    Where the corpus has fewer pieces than the vocabulary holds, `is_filled` adds words that no text is encoded to.
    """
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    num_pieces = vocab_size - len(FIRST_TOKENS) - len(LAST_TOKENS)
    alphabet = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    draft.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=num_pieces, initial_alphabet=alphabet, show_progress=False)
    )
    pieces = _by_id(draft)
    fillers = [f"▁word{number}" for number in range(num_pieces - len(pieces))] if is_filled else []
    model = models.BPE(
        vocab=_numbered([*FIRST_TOKENS, *pieces, *fillers, *LAST_TOKENS]),
        merges=_merges(draft),
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
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


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _by_id(tokenizer: Tokenizer) -> list[str]:
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
