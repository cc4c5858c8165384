"""Knowledge distillation: a classifier learns the labels, and what a trained one says of the same pictures.

    loss = (1 - alpha) * criterion(logits, label) + alpha * T^2 * KL(softmax(teacher / T) || softmax(logits / T))

It is timm's `LogitDistillationTask` in the place of the loss; rows, batches, checkpoints and what is saved are those of a classifier. The
teacher is frozen, in eval mode, and no part of the checkpoint. Paper: Hinton et al., arXiv 1503.02531.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.task import LogitDistillationTask
from torch import nn

from ..train import Classify


class Distill(Classify):
    """A timm classifier, its teacher, and what it is trained for.

    Args:
        model: the student: `[B, C, H, W]` -> logits `[B, num_classes]`.
        teacher: a network of the same classes, with timm's `pretrained_cfg`; it sees the student's pictures, normalised for it.
        teacher_name: as it is written into the run.
        teacher_classes: names of its classes, where they are known.
        alpha: share of the teacher in the loss.
        temperature: of both softmaxes; higher says more of the classes that are not the first.
        **how: as for `Classify`.

    Raises:
        ValueError: the teacher has other classes, or cannot read pictures of this size.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        teacher: Any,
        teacher_name: str,
        teacher_classes: Sequence[str] | None = None,
        alpha: float = 0.5,
        temperature: float = 2.0,
        **how: Any,
    ):
        super().__init__(model, **how)
        if not 0 < alpha <= 1:
            raise ValueError(f"distill_alpha: expected a share in (0, 1], got {alpha}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"distill_temperature: expected a number above 0, got {temperature}")
        if teacher.num_classes != len(self.classes):
            raise ValueError(
                f"teacher {teacher_name}: it tells {teacher.num_classes} classes apart, the data has {len(self.classes)};"
                " a teacher must have learned the same classes: train it on these data first, and give its run directory"
            )
        if teacher_classes is not None and tuple(teacher_classes) != self.classes:
            names = ", ".join(self.classes[:5])
            raise ValueError(f"teacher {teacher_name}: expected the classes {names}, ..., got {', '.join(teacher_classes[:5])}, ...")
        size = self.preprocess.input_size
        try:
            with torch.no_grad():
                teacher.eval()(torch.zeros(1, *size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"teacher {teacher_name}: it cannot read pictures of {' x '.join(map(str, size))}: {error}") from error
        teacher.requires_grad_(False)
        self.teacher_name, self.alpha, self.temperature = teacher_name, alpha, temperature
        self.distillation = LogitDistillationTask(
            model, teacher, criterion=self.criterion, task_loss_weight=1 - alpha, temperature=temperature, verbose=False
        )
        for name in ("mean", "std"):  # timm takes those of the weights; the pictures may be prepared with others
            numbers = torch.tensor(getattr(self.preprocess, name)).view(1, -1, 1, 1)
            setattr(self.distillation, f"student_{name}", numbers)

    @classmethod
    def of(cls, task: Classify, **how: Any) -> "Distill":
        """The same classifier, with a teacher: `teacher`, `teacher_name`, and more of what is asked above."""
        kept = ("name", "preprocess", "classes", "smoothing", "mixup", "cutmix", "freeze_bn", "multi_label", "options")
        return cls(task.trainable_module, teacher_classes=task.classes, **{key: getattr(task, key) for key in kept}, **how)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        self.distillation.trainable_module = self.trainable_module  # which may have been wrapped for several processes since
        return self.distillation(input, target)

    def describe(self) -> dict[str, Any]:
        own = {"teacher": self.teacher_name, "distill_alpha": self.alpha, "distill_temperature": self.temperature}
        return {**super().describe(), **own}
