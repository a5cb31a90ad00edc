"""The recurrent stacks: one specification, and the providers that compute it fast."""

import os
from functools import partial

import torch

from surrogate.kernels.architectures import ARCHITECTURES, Architecture, architecture
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.provider import Provider
from surrogate.kernels.providers import PROVIDERS, default_provider
from surrogate.kernels.run import run_models, run_stack
from surrogate.kernels.spec import StackSpec, join_sizes, parse_sizes
from surrogate.kernels.stepper import Stepper

__all__ = [
    "ARCHITECTURES",
    "PROVIDERS",
    "Architecture",
    "Provider",
    "SpikeEvents",
    "StackSpec",
    "Stepper",
    "architecture",
    "default_provider",
    "join_sizes",
    "parse_sizes",
    "run_models",
    "run_stack",
]

# The threads of torch's OpenMP pool do not survive a fork, and a child that counts on them waits
# for ever. With one thread it needs none.
os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
