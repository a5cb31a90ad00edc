"""Ways to damage the structure of an HDF5 file, its attributes and values."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from helpers.faults import Mutation
from helpers.mutations import ESCAPES, Draw
from surrogate.errors import DataError

#: What HDF5 or NumPy say where a change cannot be made; then the array is missing, a change too.
_IMPOSSIBLE = (TypeError, ValueError, OSError, RuntimeError, OverflowError)
_UNREADABLE = (KeyError, AttributeError, MemoryError, DataError)
Change = Callable[[Draw, h5py.File], None]


def _arrays(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return found


def another_type(draw: Draw, file: h5py.File, name: str, values: np.ndarray) -> None:
    kinds = ("<f8", "<f4", "<f2", ">f8", "<i8", "<i4", "|i1", "<u2", ">u2", "<u8", "|b1", "<c16")
    wanted = draw.choice((*kinds, "S4", "S100000", h5py.string_dtype(), [("a", "<i4")], "O"))
    if wanted == "O":
        wanted = draw.choice(
            (h5py.vlen_dtype(np.int32), h5py.ref_dtype, h5py.opaque_dtype("<m8[s]"))
        )
        file.create_dataset(name, values.shape, wanted)
    else:
        file[name] = (
            np.zeros(values.shape, wanted) if isinstance(wanted, list) else values.astype(wanted)
        )


def another_shape(draw: Draw, file: h5py.File, name: str, values: np.ndarray) -> None:
    file[name] = draw.choice(
        (
            *(values.ravel(), values[None], values[..., None], values[:-1], values[1:], values[:0]),
            *(np.concatenate([values, values]), values.T, values.ravel()[0], values[::-1]),
            h5py.Empty(values.dtype),
        )
    )


def other_values(draw: Draw, file: h5py.File, name: str, values: np.ndarray) -> None:
    changed, flat = values.copy(), values.size
    kind = values.dtype.kind
    new: Any = draw.choice((float("nan"), float("inf"), -float("inf"), -1, 0, 1e-307, 1e300, 6e4))
    if kind in "iu":
        limits = np.iinfo(values.dtype)
        new = draw.choice((limits.min, limits.max, 0, 1, limits.max - 1))
    elif kind == "S":
        new = draw.choice((b"", b"\xff\xfe", b"\x1b[31m", b"train", b"a" * 40))
    with np.errstate(all="ignore"):
        changed.reshape(-1)[draw.choice((draw.randrange(flat), slice(None), 0, -1))] = new
    file[name] = changed


def elsewhere(draw: Draw, file: h5py.File, name: str, values: np.ndarray) -> None:
    """A link, or an array whose values lie in another file."""
    shape, dtype = values.shape, values.dtype
    layout = h5py.VirtualLayout(shape, dtype)
    other = draw.choice((".", "nowhere.h5", "/etc/hostname", file.filename))
    layout[...] = h5py.VirtualSource(other, draw.choice(_arrays(file)), shape)
    size = values.nbytes
    draw.choice(
        (
            lambda: file.create_virtual_dataset(name, layout),
            lambda: file.create_dataset(name, shape, dtype, external=[("/etc/hostname", 0, size)]),
            lambda: file.create_dataset(name, shape, dtype, external=[("/dev/zero", 0, 1 << 40)]),
            lambda: file.__setitem__(
                name, h5py.SoftLink(draw.choice((f"/{name}", "/", "/nowhere")))
            ),
            lambda: file.__setitem__(name, h5py.ExternalLink(other, "/" + name)),
            lambda: file.__setitem__(name, file[draw.choice(_arrays(file))]),
            lambda: file.__setitem__(name, file["/"]),
            lambda: file.create_group(name),
            lambda: file.__setitem__(name, values.dtype),
        )
    )()


def another_storage(draw: Draw, file: h5py.File, name: str, values: np.ndarray) -> None:
    """Filters, chunks and declared sizes."""
    huge = draw.choice((2**31, 2**40, 2**62))
    shape = (huge, *values.shape[1:])
    chunks = tuple(max(1, n) for n in values.shape)
    options: dict[str, Any] = draw.choice(
        (
            {"data": values, "compression": "gzip", "compression_opts": 9},
            {"data": values, "compression": "lzf", "shuffle": True},
            {"data": values, "fletcher32": True},
            {"data": values, "scaleoffset": 0 if values.dtype.kind in "iu" else 2},
            {"data": values, "chunks": chunks, "compression": 32001, "allow_unknown_filter": True},
            {"data": values, "chunks": (1,) * values.ndim},
            {"shape": values.shape, "dtype": values.dtype},
            {"shape": values.shape, "dtype": values.dtype, "fillvalue": values.flat[0]},
            {"shape": shape, "dtype": values.dtype, "chunks": chunks, "compression": "gzip"},
            {"shape": shape, "dtype": values.dtype, "chunks": (1 << 24, *chunks[1:])},
            {"shape": values.shape, "dtype": values.dtype, "maxshape": (None,) * values.ndim,
             "chunks": (1 << 26, *chunks[1:])},
        )
    )  # fmt: skip
    file.create_dataset(name, **options)


#: Each stores, or does not, what it makes of an array under the array's name.
ARRAY_CHANGES = (another_type, another_shape, other_values, elsewhere, another_storage)


def _attribute(draw: Draw, file: h5py.File) -> None:
    name = draw.choice(sorted(file.attrs))
    before = file.attrs[name]
    del file.attrs[name]
    new: Any = draw.choice(
        (
            *(0, 1, -1, 2, 3, 2**31, 2**62, 0.0, 1e-320, 1e308, float("nan"), float("inf"), True),
            *("", "x", ESCAPES, "{" * 30_000, '{"sources": 3}', "[]", b"\xff\xfe", b""),
            *('{"a": 1e999}', [1, 2], np.zeros((2, 2)), h5py.Empty("f")),
            np.array(["a"], h5py.string_dtype()),
            *(np.bytes_(b"x" * 60_000), np.float16(1), np.uint8(255), np.void(b"\x00\x01"), None),
            *(before, before, np.asarray(before)[None]),
        )
    )  # fmt: skip
    if new is not None:
        file.attrs[name] = new


def _extra(draw: Draw, file: h5py.File) -> None:
    groups = ["", *sorted({name.rpartition("/")[0] for name in _arrays(file)})]
    for number in range(draw.choice((1, 1, 300))):
        place = f"{draw.choice(groups)}/{draw.choice(('x', 'soma', ESCAPES, 'é' * 99))}{number}"
        file[place] = draw.choice((np.zeros(3), np.zeros((2, 2), "S4"), 1, "text"))


def of_hdf5(
    *, sealed: bool = False, reseal: Callable[[Path], None] | None = None
) -> list[Mutation]:
    """Changes of the structure of a file; ``reseal`` makes anew the seals that it has."""
    return [
        Mutation(change.__name__.strip("_"), _on_file(change, reseal), sealed)
        for change in (*map(_on_array, ARRAY_CHANGES), _attribute, _extra)
    ]


def _on_array(change: Callable[[Draw, h5py.File, str, np.ndarray], None]) -> Change:
    """``change`` of one array, which has been removed."""

    @functools.wraps(change)
    def apply(draw: Draw, file: h5py.File) -> None:
        name = draw.choice(_arrays(file))
        values = file[name][()]
        del file[name]
        change(draw, file, name, values)

    return apply


def _on_file(change: Change, reseal: Callable[[Path], None] | None) -> Any:
    def apply(draw: Draw, path: Path) -> None:
        with h5py.File(path, "r+") as file, contextlib.suppress(*_IMPOSSIBLE):
            change(draw, file)
        if reseal is None:
            return
        # What cannot be read has no seal either.
        with contextlib.suppress(*_IMPOSSIBLE, *_UNREADABLE):
            reseal(path)

    return apply
