"""Networks for streams: what comes before them, backbones, and heads that grow."""

from lifelong.nets.backbones import MLP, ResNet18, SmallCNN
from lifelong.nets.classifier import Classifier, TaskClassifier
from lifelong.nets.heads import MASKED, CosineHead, GrowingHead, MultiHead
from lifelong.nets.latent import LatentModel
from lifelong.nets.nearest_mean import NearestMeanHead
from lifelong.nets.pixels import Augment, Pixels

__all__ = [
    "MASKED",
    "MLP",
    "Augment",
    "Classifier",
    "CosineHead",
    "GrowingHead",
    "LatentModel",
    "MultiHead",
    "NearestMeanHead",
    "Pixels",
    "ResNet18",
    "SmallCNN",
    "TaskClassifier",
]
