"""The recurrent stacks: one specification, and the providers that compute it fast."""

from surrogate.kernels.architectures import ARCHITECTURES, Architecture, architecture
from surrogate.kernels.events import SpikeEvents
from surrogate.kernels.provider import Provider
from surrogate.kernels.providers import PROVIDERS, default_provider
from surrogate.kernels.run import run_models, run_stack
from surrogate.kernels.spec import StackSpec
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
    "run_models",
    "run_stack",
]
