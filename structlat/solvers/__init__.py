"""Solvers: from a MAP oracle and scores to a support, its probabilities, and a certificate."""

import torch

from oracles import _threads

_threads.follow(torch.get_num_threads)
