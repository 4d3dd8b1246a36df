"""How much memory a checkpoint and an answer take, by estimate: pure arithmetic, which asks neither disk nor device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videollava_cli.settings import Settings

CHECKPOINT_BITS = 16  # a weight, as published
QUANTIZED_BITS = {"load_4bit": 4.5, "load_8bit": 8.5}  # a weight, with its share of the scales
TEXT_TOKENS = 128  # of a question and what stands around it, about
# Numbers a token that a layer's work takes at once, in hidden sizes and sizes of the inner layer.
HIDDEN_SIZES, INNER_SIZES = 12, 3


@dataclass(frozen=True, slots=True)
class TextShape:
    """The sizes of a language model that its memory depends on.

    The defaults are the 7B's: those of transformers' LlamaConfig, which its config.json leaves out and relies on, and
    its vocabulary.
    """

    num_layers: int = 32
    hidden_size: int = 4096
    inner_size: int = 11008
    num_key_value_heads: int = 32
    head_size: int = 128
    vocabulary_size: int = 32064

    @classmethod
    def from_config(cls, text: Mapping[str, Any]) -> "TextShape":
        """Return the sizes that a checkpoint's `text_config` tells.

        Raises:
            TypeError: If a size is no number.
            ValueError: If a size is no number.
            ZeroDivisionError: If there are no attention heads.
        """
        hidden, heads = int(text.get("hidden_size", 4096)), int(text.get("num_attention_heads", 32))
        return cls(
            num_layers=int(text.get("num_hidden_layers", 32)),
            hidden_size=hidden,
            inner_size=int(text.get("intermediate_size", 11008)),
            num_key_value_heads=int(text.get("num_key_value_heads") or heads),
            head_size=int(text.get("head_dim") or hidden // heads),
            vocabulary_size=int(text.get("vocab_size", 32000)),
        )

    def cache_bytes(self, num_tokens: int, bits: int) -> int:
        """Return what the KV cache of so many tokens takes: a key and a value in each layer.

        Each step writes a layer's keys and values anew, longer by one, while the old ones are still there: one layer
        is counted twice.
        """
        return 2 * (self.num_layers + 1) * self.num_key_value_heads * self.head_size * num_tokens * bits // 8

    def activation_bytes(self, num_tokens: int, bits: int) -> int:
        """Return what running a prompt of so many tokens takes at once beside weights and KV cache, about."""
        numbers = HIDDEN_SIZES * self.hidden_size + INNER_SIZES * self.inner_size
        return num_tokens * numbers * bits // 8


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a checkpoint's need of memory follows from: its weight files in bytes, its sizes, a clip's tokens."""

    published_bytes: int
    shape: TextShape
    clip_tokens: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Need:
    """What answering a question about a clip takes on a device, in bytes."""

    weights: int
    cache: int
    activations: int

    @property
    def answer(self) -> int:
        """What each question takes that is answered at the same time."""
        return self.cache + self.activations

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations


def weights_in_memory(size: ModelSize, settings: Settings, bits: int) -> int:
    """Return what weights take in memory, in bytes.

    Args:
        size: Of the checkpoint.
        settings: Whether they are quantized.
        bits: Of a number in the model's format, which weights have that are not quantized.
    """
    quantized_bits = next((number for key, number in QUANTIZED_BITS.items() if getattr(settings, key)), bits)
    # transformers quantizes neither the embeddings nor the output layer.
    num_kept = 2 * size.shape.vocabulary_size * size.shape.hidden_size
    num_others = max(size.published_bytes * 8 // CHECKPOINT_BITS - num_kept, 0)
    return int(num_others * quantized_bits + num_kept * bits) // 8


def needed_memory(size: ModelSize, settings: Settings, bits: int) -> Need:
    """Return what a checkpoint and a question about a clip, with the longest answer, take on a device, by estimate.

    Args:
        size: Of the checkpoint.
        settings: Whether its weights are quantized, and how long an answer may be.
        bits: Of a number in the model's format.
    """
    num_prompt_tokens = min(size.clip_tokens + TEXT_TOKENS, size.context_length)
    num_tokens = min(num_prompt_tokens + settings.max_new_tokens, size.context_length)
    return Need(
        weights=weights_in_memory(size, settings, bits),
        cache=size.shape.cache_bytes(num_tokens, bits),
        activations=size.shape.activation_bytes(num_prompt_tokens, bits),
    )
