"""Spike-train data sets: reading, writing, converting, checking."""

from surrogate.channels import ChannelGroup, Channels
from surrogate.datasets.header import Header
from surrogate.datasets.layout import SPLITS
from surrogate.datasets.reader import Dataset, open, sample_path
from surrogate.datasets.recorded import open_recorded
from surrogate.datasets.trial import Trial
from surrogate.datasets.writer import write

__all__ = [
    "SPLITS",
    "ChannelGroup",
    "Channels",
    "Dataset",
    "Header",
    "Trial",
    "open",
    "open_recorded",
    "sample_path",
    "write",
]
