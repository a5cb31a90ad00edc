"""Tests in Triton's interpreter, which must be chosen before Triton is imported.

``tests/kernels/triton/test_package.py`` runs them in a process of their own; by hand it is
``TRITON_INTERPRET=1 python -m pytest tests/kernels/triton/interpreter``.
"""

from __future__ import annotations

import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def _poisoned_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory holds NaN, so that a value read before it is written shows."""

    def poison(function):
        def filled(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return filled

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
