"""Distillation: fine-tuning that follows the logits of the dense network."""

from dataclasses import dataclass

from torch.nn import functional as F

from bench.api import Method, method, require_ranges
from methods.papers import HINTON2015


@method("distill", paper=HINTON2015)
class Distill(Method):
    """Fine-tune by the dense base's softened logits besides the labels; what is pruned is decided by another part."""

    starts_from = "base"
    active = "after"
    kinds = ("conv", "linear", "block")

    @dataclass(frozen=True)
    class Config:
        """Options."""

        weight: float = 0.9  # share of the teacher's term in the loss (third party)
        temperature: float = 4.0  # that softens both distributions (third party)

        def __post_init__(self):
            require_ranges(self, weight="[0, 1]", temperature="(0, inf)")

    def objective(self, ctx, logits):
        """``(1 - a) CE + a T^2 KL(softmax(z_t / T) || softmax(z_s / T))``, mean over the batch."""
        a, t = self.config.weight, self.config.temperature
        student, teacher = F.log_softmax(logits / t, dim=1), F.log_softmax(ctx.teacher() / t, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - a) * super().objective(ctx, logits) + a * t**2 * divergence
