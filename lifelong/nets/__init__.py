"""Networks for streams: what comes before them, backbones, and heads that grow."""

from lifelong.nets.adapter_sets import (
    adapter_state,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from lifelong.nets.adapters import Routed
from lifelong.nets.attention import Attention
from lifelong.nets.backbones import MLP, ResNet18, SmallCNN
from lifelong.nets.bottleneck import Bottleneck, add_bottlenecks
from lifelong.nets.classifier import Classifier, TaskClassifier
from lifelong.nets.experts import Experts
from lifelong.nets.gated import Gated
from lifelong.nets.heads import MASKED, CosineHead, GrowingHead, MultiHead
from lifelong.nets.latent import LatentModel
from lifelong.nets.logits import Logits
from lifelong.nets.lora import LoRA, add_lora, merge, unmerge
from lifelong.nets.nearest_mean import NearestMeanHead
from lifelong.nets.packed import Packed
from lifelong.nets.pixels import Augment, Pixels
from lifelong.nets.progressive import Progressive
from lifelong.nets.prompts import Prompted
from lifelong.nets.supermasks import Supermasks
from lifelong.nets.task_heads import TaskHeads
from lifelong.nets.transformer import Transformer

__all__ = [
    "MASKED",
    "MLP",
    "Attention",
    "Augment",
    "Bottleneck",
    "Classifier",
    "CosineHead",
    "Experts",
    "Gated",
    "GrowingHead",
    "LatentModel",
    "LoRA",
    "Logits",
    "MultiHead",
    "NearestMeanHead",
    "Packed",
    "Pixels",
    "Progressive",
    "Prompted",
    "ResNet18",
    "Routed",
    "SmallCNN",
    "Supermasks",
    "TaskClassifier",
    "TaskHeads",
    "Transformer",
    "adapter_state",
    "add_bottlenecks",
    "add_lora",
    "load_adapter",
    "load_adapter_state",
    "merge",
    "save_adapter",
    "unmerge",
]
