"""The token loop: prefill, then one token at a time; for a batch, or behind a kept prefix; and detokenizing.

Knows `model.forward` and token ids; nothing of files, prompts' text or the terminal.
"""

from videollava_cli.generation.branches import Rest, generate_behind, prefill
from videollava_cli.generation.caching import GrowingCache, cache_bytes, cut, new_cache, storage_bytes
from videollava_cli.generation.choosing import Decoding
from videollava_cli.generation.detokenizing import Detokenizer
from videollava_cli.generation.model import (
    Steps,
    best_steps,
    bytes_per_token,
    end_of_answer_ids,
    image_argument,
    image_features,
    is_out_of_memory,
    takes_any_mask,
    video_features,
)
from videollava_cli.generation.rows import Fan, Prompts, generate, pad_left

__all__ = [
    "Decoding",
    "Detokenizer",
    "Fan",
    "GrowingCache",
    "Prompts",
    "Rest",
    "Steps",
    "best_steps",
    "bytes_per_token",
    "cache_bytes",
    "cut",
    "end_of_answer_ids",
    "generate",
    "generate_behind",
    "image_argument",
    "image_features",
    "is_out_of_memory",
    "new_cache",
    "pad_left",
    "prefill",
    "storage_bytes",
    "takes_any_mask",
    "video_features",
]
