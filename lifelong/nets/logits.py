"""Models of transformers as they are: their output reduced to the tensor that is learned from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Logits(nn.Module):
    """Call a model and give one tensor of what it returns, such as the `logits` of transformers.

    Inputs of a batch are a dict: `Batch.of({"input_ids": ..., "attention_mask": ...}, y)`.
    Works around models of transformers and of peft; neither is imported here.

    Args:
        model: called with the inputs by name.
        output: which part to give: an attribute or key of what it returns.

    Raises:
        ValueError: from `forward`, when there is no such part, or it is no tensor.

    Example:
        >>> import torch
        >>> class Model(nn.Linear):
        ...     def forward(self, input_ids):
        ...         return {"logits": super().forward(input_ids)}
        >>> Logits(Model(4, 2))(input_ids=torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, model: nn.Module, output: str = "logits") -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Compute that part of the model's output."""
        given = self.model(*inputs, **named)
        part = given.get(self.output) if isinstance(given, dict) else None
        part = getattr(given, self.output, None) if part is None else part
        if not isinstance(part, Tensor):
            kinds = [*given] if isinstance(given, dict) else type(given).__name__
            raise ValueError(
                f"{type(self.model).__name__} returns no tensor {self.output!r} but {kinds}; name "
                "what to learn from: Logits(model, output=...)"
            )
        return part
