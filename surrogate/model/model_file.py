"""The model file: safetensors, with the card that says what the weights are in its metadata.

Tensors are float32 and have the names of ``RecurrentStack.state_dict()``. The metadata hold JSON
under ``surrogate-model``: ``sha256``, ``version`` and ``card``. The digest is that of the whole
file with 64 zeros in its own place, which is the first thing in every file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from torch import Tensor

from surrogate.errors import DataError
from surrogate.files import atomic_path, check_is_file, explain_os_error
from surrogate.kernels import SpikeEvents
from surrogate.model.card import ModelCard
from surrogate.model.prediction import predict_dataset, predict_events
from surrogate.model.spike_rule import SpikeRule
from surrogate.model.stack import RecurrentStack
from surrogate.model.zoo import locate
from surrogate.stored import parse_json
from surrogate.validated import short, validate

if TYPE_CHECKING:
    from surrogate.datasets import Dataset

__all__ = ["MODEL_NAME", "Model", "check_fit", "load", "save"]

#: Name of the model file in a run's folder.
MODEL_NAME = "model.safetensors"

_KEY = "surrogate-model"
_VERSION = 3
_NO_DIGEST = b"0" * 64
# safetensors puts the metadata before the tensors' entries, after 8 bytes with the header's length.
_START = b'{"__metadata__":{"%b":"{\\"sha256\\": \\"' % _KEY.encode()
_DIGEST = slice(8 + len(_START), 8 + len(_START) + len(_NO_DIGEST))

_MOST_BYTES = 1 << 30
_MOST_HEADER = 1 << 22  # parsed it takes up to 50 times as much

_OTHER_KINDS = {
    b"\x89HDF": "an HDF5 file, such as a data set",
    b"PK": "a zip archive, such as what torch.save writes",
    b"\x80": "a pickle",
    b"surrogate sealed": "a checkpoint",
}


class Model:
    """A trained surrogate: its network and its card.

    Attributes
    ----------
    stack : RecurrentStack
    card : ModelCard
    path : Path or None
        Where it was loaded from.
    digest : str or None
        SHA-256 of that file.
    """

    def __init__(
        self,
        stack: RecurrentStack,
        card: ModelCard,
        path: str | os.PathLike[str] | None = None,
        digest: str | None = None,
    ) -> None:
        self.stack = stack
        self.card = card
        self.path = None if path is None else Path(path)
        self.digest = digest

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
    weights = {
        name: np.ascontiguousarray(tensor.detach().cpu().to(torch.float32).numpy())
        for name, tensor in stack.state_dict().items()
    }
    about = {"sha256": _NO_DIGEST.decode(), "version": _VERSION, "card": asdict(card)}
    # One entry alone: safetensors writes several in random order.
    content = safetensors.save(weights, {_KEY: json.dumps(about, allow_nan=False)})
    with atomic_path(path) as aside:
        aside.write_bytes(content.replace(_NO_DIGEST, _digest(content), 1))


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model file.

    Parameters
    ----------
    path : path or str
        Of a model file, or the name of a bundled model, such as ``"l5pc-small"``;
        :func:`surrogate.model.zoo.bundled_models` lists them. What lies at the path comes first.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another format or version, larger than any model, or its
        weights do not fit its card.
    """
    path = locate(path)
    content = _read(path)
    with _damage_named(path):
        card = _card(content)
        # Before the stack is made, which allocates what the card asks for.
        needed = 4 * card.spec.parameter_count
        if needed > len(content):
            raise ValueError(f"the stack needs {needed:,} bytes, the file has {len(content):,}")
        weights = safetensors.load(content)
    stack = RecurrentStack.from_spec(card.spec)
    with _damage_named(path):
        check_fit(weights, stack.state_dict())
        for name, array in weights.items():
            if not np.isfinite(array).all():
                raise ValueError(f"weight {name} holds values that are not finite")
    stack.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return Model(stack.eval(), card, path, content[_DIGEST].decode())


def check_fit(weights: dict[str, NDArray[np.float32]], expected: dict[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and types of weights are those of the stack's."""
    for name in weights.keys() ^ expected.keys():
        state = "missing" if name in expected else "too many"
        raise ValueError(f"weight {short(name)} is {state}")
    for name, array in weights.items():
        shape = tuple(expected[name].shape)
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(
                f"weight {name} is {array.dtype} {array.shape}, expected float32 {shape}"
            )


@contextlib.contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (
        SafetensorError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as error:
        reason = " ".join(str(error)[:200].split())  # it may quote the file
        raise DataError(f"{path}: damaged ({reason}); get it again or train again") from error


def _read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a model file that are those that were saved."""
    if os.path.isdir(path):
        inside = Path(path, MODEL_NAME)
        cure = inside if inside.is_file() else f"the {MODEL_NAME} of a finished run"
        raise DataError(f"{path}: is a folder; give {cure}")
    check_is_file(path)
    try:
        with open(path, "rb") as handle:
            content = handle.read(_DIGEST.stop)
            if not content[8:].startswith(_START):
                raise DataError(
                    f"{path}: {_kind(content)}, not a model file; expected a {MODEL_NAME} that "
                    "`surrogate train` wrote"
                )
            size = os.fstat(handle.fileno()).st_size
            if size > _MOST_BYTES:
                raise DataError(
                    f"{path}: {size:,} bytes; a model file has at most {_MOST_BYTES:,}, so this "
                    "one is damaged or of another program"
                )
            content += handle.read()
    except OSError as error:
        raise explain_os_error(error, path) from error
    if content[_DIGEST] != _digest(content):
        raise DataError(
            f"{path}: its bytes are not those that were saved; the file is damaged, get it again"
        )
    return content


def _digest(content: bytes) -> bytes:
    digest = hashlib.sha256(content[: _DIGEST.start])
    digest.update(_NO_DIGEST)
    digest.update(memoryview(content)[_DIGEST.stop :])
    return digest.hexdigest().encode()


def _kind(content: bytes) -> str:
    if content[8:].startswith(b'{"'):
        return "a safetensors file without a model card"
    for magic, kind in _OTHER_KINDS.items():
        if content.startswith(magic):
            return kind
    return "an unknown kind of file" if content else "empty"


def _card(content: bytes) -> ModelCard:
    """The card in the metadata of a model file."""
    length, most = int.from_bytes(content[:8], "little"), min(_MOST_HEADER, len(content) - 8)
    if length > most:
        raise ValueError(f"a header of {length:,} bytes, expected at most {most:,}")
    header = parse_json(content[8 : 8 + length].decode())
    about = parse_json(header["__metadata__"][_KEY])
    if about["version"] != _VERSION:
        raise ValueError(
            f"model file version {short(about['version'])}, this release reads {_VERSION}; "
            "update surrogate-neuron"
        )
    return validate(ModelCard, about["card"], "model card")
