"""The model file: one HDF5 file with the weights and the card that says what they are.

``card`` is JSON text, ``weights/<name>`` float32 arrays by torch.nn's names. The HDF5 user block,
the first 512 bytes, holds the word ``surrogate-model``, the SHA-256 of all bytes after it, and
spaces: the HDF5 library can crash or hang on damaged bytes, so it is given none.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.errors import DataError
from surrogate.files import atomic_path, check_is_file, explain_os_error
from surrogate.kernels import SpikeEvents
from surrogate.model.card import ModelCard
from surrogate.model.prediction import predict_dataset, predict_events
from surrogate.model.spike_rule import SpikeRule
from surrogate.model.stack import RecurrentStack

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["Model", "load", "save"]

FORMAT = "surrogate-model"
VERSION = 2
_SEAL_BYTES = 512

# The type of h5py's and torch's errors depends on which bytes are damaged.
_DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)


class Model:
    """A trained surrogate: its network and its card.

    Attributes
    ----------
    stack : RecurrentStack
    card : ModelCard
    path : Path or None
        Where it was loaded from.
    """

    def __init__(
        self, stack: RecurrentStack, card: ModelCard, path: str | os.PathLike[str] | None = None
    ) -> None:
        self.stack = stack
        self.card = card
        self.path = None if path is None else Path(path)

    @property
    def spike_rule(self) -> SpikeRule | None:
        """The rule that turns logits into spikes, if one has been chosen."""
        return self.card.spike_rule

    def state_dict(self) -> dict[str, Tensor]:
        """Weights by torch.nn's names, ``layers.{i}.weight_ih_l0`` and so on."""
        return self.stack.state_dict()

    def predict(
        self, source: Dataset | SpikeEvents
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Spike probability and soma voltage for whole trials, each from a zero state.

        Parameters
        ----------
        source : Dataset or SpikeEvents
            A data set (all its trials) or a batch of event sequences.

        Returns
        -------
        probability : float32 [trials, bins]
        voltage : float32 [trials, bins], mV

        Raises
        ------
        UsageError
            If the input has other channels or bins than the model.
        """
        if isinstance(source, SpikeEvents):
            logits, voltage = predict_events(self.stack, source)
        else:
            self.card.check_fits(source)
            logits, voltage = predict_dataset(self.stack, source, source.trial_indices("all"))
        return torch.sigmoid(torch.from_numpy(logits)).numpy(), voltage

    def __repr__(self) -> str:
        spec = self.stack.spec
        return f"<Model {spec.arch} {spec.sizes_text}, {spec.parameter_count:,} parameters>"


def save(path: str | os.PathLike[str], stack: RecurrentStack, card: ModelCard) -> None:
    """Write ``stack``'s weights (float32) and ``card`` to ``path``, all or nothing.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    # A dataset, since an attribute cannot hold more than 64 KB.
    text = card.to_json()
    weights = {
        name: tensor.detach().cpu().to(torch.float32).numpy()
        for name, tensor in stack.state_dict().items()
    }
    # Built in memory, so that a full disk is an ordinary OSError, which within HDF5 it is not.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_SEAL_BYTES) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file["card"] = text
        for name, array in weights.items():
            file[f"weights/{name}"] = array
    body = buffer.getvalue()[_SEAL_BYTES:]
    with atomic_path(path) as aside:
        aside.write_bytes(_seal(body) + body)


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another format or version, or its weights do not fit
        its card.
    """
    check_is_file(path)
    try:
        with open(path, "rb") as handle:
            seal = handle.read(_SEAL_BYTES)
            if not seal.startswith(FORMAT.encode()):
                raise DataError(
                    f"{path}: not a model file; expected the model.h5 that `surrogate train` writes"
                )
            body = handle.read()
    except OSError as error:
        raise explain_os_error(error, path) from error
    if seal != _seal(body):
        raise DataError(
            f"{path}: its bytes are not those that were saved; the file is damaged, get it again"
        )
    try:
        with h5py.File(io.BytesIO(seal + body), "r") as file:
            card, weights = _read(file, path)
        stack = RecurrentStack.from_spec(card.spec)
        stack.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a readable model file ({reason}); expected the model.h5 that "
            "`surrogate train` writes"
        ) from error
    return Model(stack.eval(), card, path)


def _seal(body: bytes) -> bytes:
    return f"{FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode().ljust(_SEAL_BYTES)


def _read(
    file: h5py.File, path: str | os.PathLike[str]
) -> tuple[ModelCard, dict[str, NDArray[np.float32]]]:
    kind, version = file.attrs.get("format"), file.attrs.get("version")
    if not isinstance(kind, str) or kind != FORMAT:
        raise DataError(f"{path}: format is {kind!r:.60}, expected {FORMAT!r}; give a model file")
    if not isinstance(version, int | np.integer) or version != VERSION:
        raise DataError(
            f"{path}: model file version {version!s:.60}, this release reads {VERSION}; "
            "update surrogate-neuron or train again"
        )
    text = file["card"].asstr()[()]
    try:
        card = ModelCard.from_json(text)
        shapes = card.spec.parameter_shapes()
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: the model card is damaged ({error})") from error
    group = file["weights"]
    # Shapes before bytes: a damaged shape must not allocate what the file cannot hold.
    if {name: group[name].shape for name in group} != shapes:
        raise DataError(f"{path}: the weights do not fit the card's stack; the file is damaged")
    weights = {name: np.asarray(group[name][()], dtype=np.float32) for name in shapes}
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise DataError(f"{path}: weight {name} holds values that are not finite; train again")
    return card, weights
