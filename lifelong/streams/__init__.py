"""Tasks, one after the other, from data sets, tables, images and generators."""

from lifelong.streams.bounds import cumulative, joint
from lifelong.streams.datasets import DATASETS, Dataset, load
from lifelong.streams.domains import permuted, rotate, rotated
from lifelong.streams.images import image_folder
from lifelong.streams.labelled import Labelled
from lifelong.streams.ordered import in_order
from lifelong.streams.rows import Rows
from lifelong.streams.scenarios import (
    blurry,
    class_incremental,
    domain_incremental,
    task_incremental,
)
from lifelong.streams.schedule import Schedule, ScheduleOptions
from lifelong.streams.stream import Drift, Stream, Task
from lifelong.streams.synthetic import gaussians
from lifelong.streams.tables import table

__all__ = [
    "DATASETS",
    "Dataset",
    "Drift",
    "Labelled",
    "Rows",
    "Schedule",
    "ScheduleOptions",
    "Stream",
    "Task",
    "blurry",
    "class_incremental",
    "cumulative",
    "domain_incremental",
    "gaussians",
    "image_folder",
    "in_order",
    "joint",
    "load",
    "permuted",
    "rotate",
    "rotated",
    "table",
    "task_incremental",
]
