"""The optimizer's groups of parameters and its learning rate over the steps."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

_LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.")
_TEXT = re.compile(r"\b(text_model|text_projection)\b|\bhead\.text\b")
_BELOW_THE_LAYERS = re.compile(r"(vision|text)_model\.(embeddings|pre_layrnorm)")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to zero.

    Attributes:
        steps: optimiser steps of the whole run.
        warmup: steps of the warm-up.
        peak: learning rate at its end.
    """

    steps: int
    warmup: int
    peak: float

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based ``step``."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * share))

    def set_lr(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give every group its rate of the 0-based ``step``."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr(step) * group.get("lr_scale", 1.0)


def make_optimizer(
    model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float = 1.0, text_lr: float = 1.0
) -> torch.optim.AdamW:
    """AdamW with CLIP's betas; no decay on norms, biases, the class embedding and the logit scale.

    Args:
        model: whose trained parameters are optimised.
        lr: peak learning rate.
        weight_decay: of matrices.
        layer_decay: each layer's rate is that of the layer above times this; a tower's embeddings count as one
            more layer, and what lies above the layers has the full rate. 1 for one rate throughout.
        text_lr: of the text tower and its projection, as a share of what they would have else.

    Source: layer-wise decay of BEiT, arXiv 2106.08254, appendix; and of ELECTRA, arXiv 2003.10555.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    depths = _tower_depths([name for name, _ in model.named_parameters()])
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained:
        scale = layer_decay ** _layers_above(name, depths) * (text_lr if _TEXT.search(name) else 1.0)
        groups[scale, parameter.ndim >= 2].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
            for (scale, decays), parameters in groups.items()
        ],
        lr=lr,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )


def _tower_depths(names: list[str]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for name in names:
        if match := _LAYER.search(name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths


def _layers_above(name: str, depths: dict[str, int]) -> int:
    """How many steps of decay a parameter lies below its tower's top."""
    if match := _LAYER.search(name):
        return depths[match[1]] - int(match[2])
    if match := _BELOW_THE_LAYERS.search(name):
        return depths[match[1]] + 1
    return 0
