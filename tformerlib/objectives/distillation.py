"""Learning from a teacher: its whole distribution, or only its decision (Touvron et al. 2021, sec. 4).

In all functions `label` are the logits that answer for the true label and `teacher_says` those that answer for the
teacher, both (B, classes). With a distillation token they come from two heads; without, the same logits serve as both.
"""

import torch.nn.functional as F
from torch import Tensor


def hard(label: Tensor, teacher_says: Tensor, targets: Tensor, teacher: Tensor) -> Tensor:
    """Half the cross-entropy with the targets, half that with the teacher's most likely class (eq. 3).

    Args:
        targets: labels (B,), or probabilities (B, classes) as mixup makes them.
        teacher: the teacher's logits (B, classes) for the same augmented images; no gradient reaches it.
    """
    _check(label, teacher_says, teacher)
    return (F.cross_entropy(label, targets) + F.cross_entropy(teacher_says, teacher.argmax(-1))) / 2


def soft(
    label: Tensor, teacher_says: Tensor, targets: Tensor, teacher: Tensor, *, tau: float = 3.0, share: float = 0.1
) -> Tensor:
    """(1 - share) cross-entropy + share tau^2 KL(teacher || student), both at temperature tau (eq. 2; Hinton 2015).

    The divergence is that of one example, averaged over the batch, as the equation has it. The official code divides
    the sum by the number of all logits, hence also by the classes: its alpha is a share of 1 / classes of that here.

    Args:
        tau: divides the logits; the tau^2 keeps the gradient's size as tau grows.  share: lambda in the paper.

    Raises:
        ValueError: a tau that is not positive, a share outside 0 .. 1, or logits that do not fit together.
    """
    _check(label, teacher_says, teacher)
    if not tau > 0 or not 0 <= share <= 1:
        raise ValueError(f"tau={tau} has to be positive, and share={share} in 0 .. 1")
    student = (teacher_says / tau).log_softmax(-1)
    divergence = F.kl_div(student, (teacher.detach() / tau).log_softmax(-1), reduction="batchmean", log_target=True)
    return (1 - share) * F.cross_entropy(label, targets) + share * tau**2 * divergence


def _check(label: Tensor, teacher_says: Tensor, teacher: Tensor) -> None:
    if not label.shape == teacher_says.shape == teacher.shape or label.ndim != 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in (label, teacher_says, teacher))
        raise ValueError(f"logits of student and teacher are (batch, classes) and alike, not {shapes}")
