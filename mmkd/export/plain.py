"""A CLIP with the head that was trained with it folded into its projections: the same embeddings, without a head."""

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmkd.families import CLIP

if TYPE_CHECKING:
    from mmkd.encoders import PairEncoder


def fold_head(encoder: "PairEncoder") -> "PairEncoder":
    """The same encoder without a head.

    Head (D_t, D_s) and projection (D_s, W) are both linear without bias, so that their product (D_t, W) is the
    projection of a CLIP that embeds into the head's D_t dimensions by itself.

    Returns:
        ``encoder`` itself where it has no head, or no linear projections, as a SigLIP; else one with a model of
        its own.
    """
    if encoder.head is None or encoder.family is not CLIP:
        return encoder
    clip: Any = deepcopy(encoder.model)
    dim = encoder.head.dims[1]
    for name, head in (("visual_projection", encoder.head.image), ("text_projection", encoder.head.text)):
        old = getattr(clip, name)
        new = torch.nn.Linear(
            old.in_features, dim, bias=False, device=old.weight.device, dtype=old.weight.dtype
        )
        product = head.weight.double() @ old.weight.double()
        new.load_state_dict({"weight": product.to(old.weight.dtype)})
        setattr(clip, name, new.requires_grad_(False).eval())
    for config in (clip.config, clip.config.vision_config, clip.config.text_config):
        config.projection_dim = dim
    clip.projection_dim = dim
    return replace(encoder, model=clip, head=None)
