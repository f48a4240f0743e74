"""One forward pass over a split, and the metrics that come from it."""

import torch
import torch.nn.functional as F
from fastai.learner import Learner
from torch import Tensor


@torch.no_grad()
def predict_logits(learner: Learner) -> tuple[Tensor, Tensor]:
    """Logits, float32 [n, classes], and labels, int64 [n], of the validation split in its order, on the CPU."""
    learner.model.eval()
    batches = [(learner.model(xb.as_subclass(Tensor)), yb.as_subclass(Tensor)) for xb, yb in learner.dls.valid]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def metrics(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict:
    """Accuracy and error rate in [0, 1] and the mean cross-entropy in nats, over all images and per class.

    A class without images has None for each.
    """
    hit = logits.argmax(1) == labels
    loss = F.cross_entropy(logits.double(), labels, reduction="none")

    def over(chosen: Tensor) -> dict:
        if not chosen.any():
            return {"images": 0, "accuracy": None, "error_rate": None, "valid_loss": None}
        n, right = int(chosen.sum()), int(hit[chosen].sum())
        return {
            "images": n,
            "accuracy": right / n,
            "error_rate": (n - right) / n,
            "valid_loss": loss[chosen].mean().item(),
        }

    everything = over(torch.ones_like(hit))
    return everything | {"per_class": {name: over(labels == i) for i, name in enumerate(classes)}}
