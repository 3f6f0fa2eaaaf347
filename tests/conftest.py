"""One thread for every test, and for the programs that tests start: two cores run two tests."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
