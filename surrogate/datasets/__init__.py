"""Spike-train data sets: reading, converting, checking."""

from surrogate.datasets.layout import SPLITS
from surrogate.datasets.reader import Dataset, open, sample_path
from surrogate.datasets.recorded import open_recorded
from surrogate.datasets.trial import Trial

__all__ = ["SPLITS", "Dataset", "Trial", "open", "open_recorded", "sample_path"]
