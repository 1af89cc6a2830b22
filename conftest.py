"""Every test computes on one thread: results are then the same everywhere, and cores are shared."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)
