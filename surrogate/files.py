"""Files: written so that a partly written one never has its final name; only files are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from surrogate.errors import DataError

__all__ = [
    "GRID_FOLDER",
    "atomic_path",
    "atomic_write_text",
    "check_is_file",
    "explain_os_error",
    "lock_file",
]

#: Where grids lie unless the user says otherwise. Here, because it is needed without torch.
GRID_FOLDER = "runs/grid"


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; on success it takes ``target``'s name, on failure it is removed.

    The temporary file is in the folder of ``target``, since a rename across file systems is not
    atomic, and is flushed to disk before the rename: a crash leaves the old file or the new one.
    A symbolic link stays: the file that it points to is written.

    Raises
    ------
    DataError
        If the folder cannot be written to, the disk is full, or the target is a device or pipe,
        which the rename would replace by a file.
    """
    target = Path(os.path.realpath(target))
    if target.exists():
        check_is_file(target)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        # Unwritable folders fail here too, and have already been reported above.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is no regular file: a pipe would be waited for, a device might never end.

    Raises
    ------
    DataError
        If there is no such file, or it is of another kind.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:  # a zero byte
        raise DataError(f"{path!s}: no path ({error}); check it") from None
    if stat.S_ISDIR(mode):
        raise explain_os_error(IsADirectoryError(errno.EISDIR, ""), path)
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise DataError(f"{path}: is a {kind}, not a file; give a file")


def atomic_write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` through :func:`atomic_path`."""
    with atomic_path(target) as aside:
        aside.write_text(text, encoding="utf-8")


def lock_file(handle: IO[Any], *, wait: bool) -> None:
    """Lock an open file against other processes, until it is closed.

    Some network file systems have no locks. There a line on stderr says, once, what is not guarded.

    Raises
    ------
    BlockingIOError
        If another process holds the lock and ``wait`` is False.
    OSError
        If the file cannot be locked for another reason.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        _warn_of_no_locks(Path(handle.name).parent)


@functools.cache
def _warn_of_no_locks(folder: Path) -> None:
    print(
        f"surrogate: {folder}: this file system has no locks; nothing keeps two processes from "
        "working here at once, so start one at a time",
        file=sys.stderr,
    )


def explain_os_error(error: OSError, path: str | os.PathLike[str]) -> DataError:
    """Turn an operating-system error about ``path`` into one line with the cure."""
    cures = {
        errno.ENOSPC: "no space left on the device; free some or choose another folder",
        errno.EDQUOT: "disk quota exceeded; free some space or choose another folder",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EACCES: "permission denied; choose a folder you may write to",
        errno.EPERM: "operation not permitted; choose a folder you may write to",
        errno.ENOENT: "no such file or folder; check the path",
        errno.EISDIR: "is a folder; give a file",
        errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
        errno.EEXIST: "a file of that name is in the way; choose another folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }
    reason = cures.get(error.errno or 0) or error.strerror or str(error)
    return DataError(f"{path}: {reason}")
