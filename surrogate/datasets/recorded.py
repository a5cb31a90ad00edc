"""Opens the data set of a run or a grid again."""

from __future__ import annotations

import os

from surrogate.datasets.reader import Dataset, open
from surrogate.errors import DataError, UsageError

__all__ = ["open_recorded"]


def open_recorded(
    recorded: str | None, digest: str, owner: str, path: str | os.PathLike[str] | None = None
) -> Dataset:
    """Open a data set again, from where it was or from where it is now.

    Parameters
    ----------
    recorded : str or None
        Where it was; None for the bundled sample.
    digest : str
        Its digest.
    owner : str
        What was made with it, for messages: "this run".
    path : path, optional
        Where it is now, if it moved.

    Raises
    ------
    UsageError
        If another data set lies there.
    DataError
        If it cannot be opened.
    """
    try:
        dataset = open(path or recorded)
    except DataError as error:
        raise DataError(f"{error}; if the data moved, give their place with --data") from error
    if dataset.digest != digest:
        dataset.close()
        raise UsageError(
            f"{dataset.path} is not the data set of {owner} (digest {dataset.digest[:12]}, "
            f"expected {digest[:12]}); give the right one with --data"
        )
    return dataset
