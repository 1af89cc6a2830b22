"""Networks for streams: what comes before them, backbones, and heads that grow."""

from lifelong.core.text import byte_texts, text_bytes
from lifelong.nets.adapter_sets import (
    adapter_state,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from lifelong.nets.adapters import Routed
from lifelong.nets.analytic import AnalyticHead, MeansHead
from lifelong.nets.attention import Attention
from lifelong.nets.backbones import MLP, ResNet18, SmallCNN
from lifelong.nets.bottleneck import Bottleneck, add_bottlenecks
from lifelong.nets.classifier import Classifier, TaskClassifier
from lifelong.nets.efficientnet import EfficientNetLite0
from lifelong.nets.experts import Experts
from lifelong.nets.gated import Gated
from lifelong.nets.heads import MASKED, CosineHead, GrowingHead, MultiHead
from lifelong.nets.latent import LatentModel
from lifelong.nets.lda import LDAHead
from lifelong.nets.logits import Logits
from lifelong.nets.lora import LoRA, add_lora, merge, unmerge
from lifelong.nets.minilm import MiniLM
from lifelong.nets.nearest_mean import NearestMeanHead
from lifelong.nets.packed import Packed
from lifelong.nets.pixels import Augment, Pixels
from lifelong.nets.progressive import Progressive
from lifelong.nets.prompts import Prompted
from lifelong.nets.ridge import RidgeHead
from lifelong.nets.smollm import NextToken, smollm2
from lifelong.nets.supermasks import Supermasks
from lifelong.nets.task_heads import TaskHeads
from lifelong.nets.transformer import Transformer
from lifelong.nets.weights import load_weights
from lifelong.nets.wordpiece import WordPiece

__all__ = [
    "MASKED",
    "MLP",
    "AnalyticHead",
    "Attention",
    "Augment",
    "Bottleneck",
    "Classifier",
    "CosineHead",
    "EfficientNetLite0",
    "Experts",
    "Gated",
    "GrowingHead",
    "LDAHead",
    "LatentModel",
    "LoRA",
    "Logits",
    "MeansHead",
    "MiniLM",
    "MultiHead",
    "NearestMeanHead",
    "NextToken",
    "Packed",
    "Pixels",
    "Progressive",
    "Prompted",
    "ResNet18",
    "RidgeHead",
    "Routed",
    "SmallCNN",
    "Supermasks",
    "TaskClassifier",
    "TaskHeads",
    "Transformer",
    "WordPiece",
    "adapter_state",
    "add_bottlenecks",
    "add_lora",
    "byte_texts",
    "load_adapter",
    "load_adapter_state",
    "load_weights",
    "merge",
    "save_adapter",
    "smollm2",
    "text_bytes",
    "unmerge",
]
