"""The optimizer of the bundled model: Muon for the layers' matrices, AdamW for all else."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

WEIGHT_DECAY = 0.02


class MuonAndAdamW:
    """One optimizer in two parts, with a learning rate for each group of parameters.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) steps along the orthogonalized momentum
    of a matrix; its steps are scaled to the size of AdamW's, so that both take the same rate.
    """

    def __init__(self, groups: Iterable[list[tuple[str, nn.Parameter]]]) -> None:
        kept = [list(group) for group in groups]
        matrices = [{"params": [p for n, p in group if _is_layer_matrix(n, p)]} for group in kept]
        others = [{"params": [p for n, p in group if not _is_layer_matrix(n, p)]} for group in kept]
        self.muon = torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)

    def step(self, *learning_rates: float) -> None:
        """Clip the gradients to norm 1, update all groups, each at its own rate, and clear the gradients."""
        for part in (self.muon, self.adamw):
            for group, rate in zip(part.param_groups, learning_rates, strict=True):
                group["lr"] = rate
        parts = (*self.muon.param_groups, *self.adamw.param_groups)
        torch.nn.utils.clip_grad_norm_([p for group in parts for p in group["params"]], 1.0)
        for part in (self.muon, self.adamw):
            part.step()  # type: ignore[no-untyped-call]
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both parts."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a saved state stood."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def _is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name and not name.startswith("heads.")
