"""What the bundled model is trained on as losses, and 4-bit rounding for the end of its training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

from tiny_world.architecture import NUM_FRAMES
from tiny_world.batches import DEED_SIZES, IGNORED, NOT_DRAWN, NUM_DEED_FRAMES
from tiny_world.scenes import COLORS, SHAPES

DEED_WEIGHT = 0.3  # against the answers' loss
NF4_BLOCK = 64  # weights that share a scale (bitsandbytes' default)


class AttributeHeads(nn.Module):
    """Linear read-outs that make the tower say what lies in each patch; thrown away after the first stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.geometry = nn.Linear(width, 3)
        self.background = nn.Linear(width, NOT_DRAWN + 1)
        self.count = nn.Linear(width, 5)


class Normalizer:
    """Turn uint8 pixels into pixel values with the image processor's own settings."""

    def __init__(self, processor: VideoLlavaImageProcessor) -> None:
        self.mean = torch.tensor(processor.image_mean)[:, None, None]
        self.std = torch.tensor(processor.image_std)[:, None, None]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 pixel values of the same shape, (..., 3, H, W)."""
        return (pixels.float() / 255.0 - self.mean) / self.std


def attribute_loss(
    tower: nn.Module, heads: AttributeHeads, batch: dict[str, torch.Tensor], normalize: Normalizer
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of the first stage and the share of right read-outs of each kind."""
    states = tower(normalize(batch["pixel_values"]), output_hidden_states=True).hidden_states[-1]
    patches = states[:, 1:]
    has_actor = batch["shape"] != len(SHAPES)
    features = {"shape": patches, "color": patches, "background": states, "count": states[:, 0]}
    total, shares = torch.zeros(()), {}
    for name, seen in features.items():
        logits = getattr(heads, name)(seen).float()
        losses = F.cross_entropy(logits.flatten(0, -2), batch[name].flatten(), reduction="none")
        is_right = logits.argmax(-1) == batch[name]
        if seen is patches:
            weights = torch.where(has_actor, 1.0, 0.1).flatten()
            total = total + (losses * weights).sum() / weights.sum()
            shares[name] = float(is_right[has_actor].float().mean())
        else:
            total = total + losses.mean()
            shares[name] = float(is_right.float().mean())
    geometry = heads.geometry(patches).float()[has_actor]
    total = total + F.smooth_l1_loss(geometry, batch["geometry"][has_actor], beta=0.1)
    return total, shares


class DeedHeads(nn.Module):
    """Linear read-outs that make the language model's first half say what each actor did; thrown away at the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.all = nn.Linear(width, sum(DEED_SIZES))

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return float32 logits of motion, shape, first and last color, (N, n) each, from states, (N, width)."""
        logits: torch.Tensor = self.all(states).float()
        return torch.split(logits, list(DEED_SIZES), dim=-1)


def deed_loss(
    heads: DeedHeads, states: torch.Tensor, is_video: torch.Tensor, deeds: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Return the loss of the read-outs from the last frames' patches, and the share of right motions.

    `states`: (B, T, width); `is_video`: the clip's tokens, bool, (B, T); `deeds`: of the batch, (B, 2, 16, 4).
    """
    of_frames = states[is_video].view(len(states), NUM_FRAMES, -1, states.shape[-1])
    patches = of_frames[:, -NUM_DEED_FRAMES:, 1:]  # behind the class token
    has_actor = deeds[..., 0] != IGNORED
    logits, labels = heads(patches[has_actor]), deeds[has_actor].unbind(-1)
    losses = [F.cross_entropy(one, label) for one, label in zip(logits, labels, strict=True)]
    return torch.stack(losses).mean(), float((logits[0].argmax(-1) == labels[0]).float().mean())


def answer_loss(
    model: VideoLlavaForConditionalGeneration, heads: DeedHeads, batch: dict[str, torch.Tensor], normalize: Normalizer
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of the answers' tokens and of what actors did, and the shares of both that are right."""
    pixels = {k: normalize(batch[k]) for k in ("pixel_values", "pixel_values_videos") if k in batch}
    labels = batch["labels"]
    mask = torch.where(batch["attention_mask"], 0.0, -1e9).to(torch.bfloat16)  # eager attention adds it to the scores
    asked = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "attention_mask": mask}
    output = model.model(**asked, **pixels, use_cache=False, output_hidden_states=True)
    states = output.last_hidden_state
    is_answer = labels != IGNORED
    logits = model.lm_head(states[is_answer]).float()
    losses = F.cross_entropy(logits, labels[is_answer], reduction="none")
    is_right = logits.argmax(-1) == labels[is_answer]
    starts = is_answer & ~F.pad(is_answer, (1, 0))[:, :-1]
    number = starts.flatten().cumsum(0).view_as(starts)[is_answer] - 1
    # Answers count alike, short ones too: a "Yes." among long descriptions would hardly be learnt.
    loss = (losses / torch.bincount(number)[number]).sum() / (number.max() + 1)
    wrong = torch.zeros(int(number.max()) + 1).index_add_(0, number, (~is_right).float())
    shares = {"token": float(is_right.float().mean()), "answer": float((wrong == 0).float().mean())}
    if "deeds" not in batch:
        return loss, shares
    is_video = batch["input_ids"] == model.config.video_token_id
    half_way = output.hidden_states[len(output.hidden_states) // 2]
    deed, shares["deed"] = deed_loss(heads, half_way, is_video, batch["deeds"])
    return loss + DEED_WEIGHT * deed, shares


@contextmanager
def rounded_to_nf4(model: VideoLlavaForConditionalGeneration, codebook: torch.Tensor) -> Iterator[None]:
    """Run the model with the weights that `--load-4bit` would give it, and restore them (straight-through)."""
    linears = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    kept = [linear.weight.data for linear in linears]
    for linear in linears:
        linear.weight.data = _rounded(linear.weight.data, codebook)
    try:
        yield
    finally:
        for linear, weight in zip(linears, kept, strict=True):
            linear.weight.data = weight


def _rounded(weight: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    blocks = weight.reshape(-1, NF4_BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    midpoints = (codebook[1:] + codebook[:-1]) / 2
    return (codebook[torch.bucketize(blocks / scales, midpoints)] * scales).reshape(weight.shape)
