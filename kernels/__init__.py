"""The recurrent stacks: one specification, and the providers that compute it fast."""

from surrogate.kernels.architectures import ARCHITECTURES, Architecture
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.run import PROVIDERS, default_provider, run_models, run_stack
from surrogate.kernels.spec import StackSpec
from surrogate.kernels.stepper import Stepper

__all__ = [
    "ARCHITECTURES",
    "PROVIDERS",
    "Architecture",
    "SpikeEvents",
    "StackSpec",
    "Stepper",
    "default_provider",
    "run_models",
    "run_stack",
]
