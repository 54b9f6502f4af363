"""An exponential moving average of the weights."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd.errors import TrainingError

FILE = "ema.safetensors"


class MovingAverage:
    """``average = decay * average + (1 - decay) * weights`` after each step, in float32.

    Early on the decay is smaller, ``(1 + step) / (10 + step)``, so that the average does not remember the start.

    Args:
        model: whose trained parameters are averaged; what is frozen is not.
        decay: in (0, 1).

    Source: Polyak averaging as TensorFlow's ``ExponentialMovingAverage`` and timm's ``ModelEmaV3`` warm it up.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after the 1-based ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = dict(model.named_parameters())
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, [current[name].float() for name in self.weights], 1 - decay)

    def over(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """``weights`` by name with the averaged ones in their places, on the CPU."""
        return {name: self.weights[name].cpu() if name in self.weights else weights[name] for name in weights}

    def save(self, folder: Path) -> None:
        """Write the averages into a checkpoint."""
        from safetensors.torch import save_file

        save_file(self.weights, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take the averages up from a checkpoint.

        Raises:
            TrainingError: they are missing, damaged, or another student's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(folder / FILE)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{folder / FILE} cannot be read ({error}); expected the averages of --ema"
            ) from error
        if {name: tensor.shape for name, tensor in found.items()} != {
            name: tensor.shape for name, tensor in self.weights.items()
        }:
            raise TrainingError(f"{folder / FILE} holds the weights of another student; start another run")
        for name, tensor in found.items():
            self.weights[name].copy_(tensor)
