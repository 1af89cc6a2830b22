"""Models of transformers and peft as they are; without the extra `hf` these are left out."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import Adam

from lifelong import EWC, Batch, Learner, Replay
from lifelong.core.loss import cross_entropy
from lifelong.nets import Logits, LoRA, add_bottlenecks, add_lora

WHY = "pip install 'lifelong[hf]' brings it"


class Output(OrderedDict):
    """As transformers returns it."""

    @property
    def logits(self):
        return self["logits"]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.classifier = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        h = (self.embedding(input_ids) * attention_mask[..., None]).sum(1)
        return Output(hidden=h, logits=self.classifier(h))


def batch():
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    return Batch.of({"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.tensor([0, 1]))


def learned(model):
    learner = Learner(model, Adam(model.parameters(), lr=0.02), [EWC(1.0), Replay(8)])
    learner.begin_task(0)
    losses = [float(learner.observe(batch())) for _ in range(20)]
    learner.end_task([batch()])
    learner.begin_task(1)
    learner.observe(batch())
    assert losses[-1] < losses[0]
    return learner


def test_one_part_of_what_a_model_returns_is_learned_from():
    learner = learned(Logits(Model()))
    assert learner.predict(batch().x).argmax(1).tolist() == [0, 1]
    hidden = Logits(learner.model.model, "hidden")(**batch().x)
    assert hidden.shape == (2, 4)


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"no tensor 'scores' but \['hidden', 'logits'\]"):
        Logits(Model(), "scores")(**batch().x)
    with pytest.raises(ValueError, match="no tensor 'logits' but Tensor"):
        Logits(nn.Linear(2, 2))(torch.zeros(1, 2))


@pytest.mark.parametrize("loss", [cross_entropy, nn.CrossEntropyLoss()])
def test_a_model_without_it_is_told_of_it(loss):
    model = Model()
    learner = Learner(model, Adam(model.parameters()), [Replay(8)], loss=loss)
    told = r"returns a Output, .*lifelong\.nets\.Logits\(model"
    for rows in (batch(), replace(batch(), weight=torch.ones(2))):
        with pytest.raises(ValueError, match=told):
            learner.observe(rows)
    with pytest.raises(ValueError, match=told):
        learner.predict(batch().x)
    assert learner.steps == 0


def tiny():
    transformers = pytest.importorskip("transformers", reason=WHY)
    config = transformers.BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        initializer_range=0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def test_a_model_of_transformers_learns_whole_and_with_lora():
    learned(Logits(tiny()))
    model = add_lora(Logits(tiny()), rank=2, match="query|value")
    layers = [module for module in model.modules() if isinstance(module, LoRA)]
    assert len(layers) == 2
    assert model.model.classifier.weight.requires_grad
    learned(model)


def test_t5_reads_the_weight_of_a_layer_that_is_adapted():
    transformers = pytest.importorskip("transformers", reason=WHY)
    config = transformers.T5Config(
        vocab_size=9, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, num_labels=2
    )
    config.decoder_start_token_id = 0
    for add in (add_lora, add_bottlenecks):
        model = add(Logits(transformers.T5EncoderModel(config), "last_hidden_state"), head=False)
        assert model(**batch().x).shape == (2, 3, 8)


def test_gpt2_keeps_inputs_first_and_is_adapted():
    transformers = pytest.importorskip("transformers", reason=WHY)
    config = transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    config.pad_token_id = 0
    torch.manual_seed(0)
    gpt2 = transformers.GPT2ForSequenceClassification(config)
    model = add_lora(Logits(gpt2), rank=2, match="c_attn")
    assert [m.in_features for m in model.modules() if isinstance(m, LoRA)] == [8]
    learned(model)


# What peft asks of a model, this version of transformers calls by another name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_model_of_peft_learns_its_adapters_alone():
    peft = pytest.importorskip("peft", reason=WHY)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    model = Logits(peft.get_peft_model(tiny(), config))
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert before
    learned(model)
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name], value) for name, value in before.items())
