"""So many places that all processes of a host share, by locks on files.

Decides: which file is which place. A process holds a place while it has its file locked (flock(2)),
so the places of one that is killed are free at once.

Assumes: the processes run as one user and see one folder: ``/run/lock``, else ``/dev/shm``, else
that of temporary files. Containers and hosts have places of their own.

Promises: any thread may call; nothing waits. Where files cannot be locked there is no limit.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  # not on Windows
    fcntl = None  # type: ignore[assignment]  # no locks there

_FOLDERS = ("/run/lock", "/dev/shm")  # noqa: S108  # shared by all services of the host, on purpose


class Place:
    """A locked file."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another have it; again: nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class HostPlaces:
    """``number`` places under a ``name``."""

    def __init__(self, name: str, number: int, folder: Path | None = None) -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._prefix = str((folder or _folder()) / f"mailqueue-{os.getuid()}-{digest}")
        self._number = number

    def take(self) -> Place | None:
        """A free place; None: all are taken."""
        if fcntl is None:
            return Place(None)
        for i in range(self._number):
            if (place := self._lock(str(i), shared=False)) is not None:
                return place
        return None

    def wait(self) -> Place:
        """Say that somebody waits, until this is released."""
        return self._lock("wanted", shared=True) or Place(None)

    def is_wanted(self) -> bool:
        """Whether somebody waits for a place, in any process."""
        if fcntl is None:
            return False
        place = self._lock("wanted", shared=False)
        if place is not None:
            place.release()
        return place is None

    def _lock(self, name: str, *, shared: bool) -> Place | None:
        """The file of this name, locked; None: somebody else has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(f"{self._prefix}-{name}", flags, 0o600)
        except OSError:  # no reason to send nothing
            return Place(None)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return Place(None)
        return Place(descriptor)


def _folder() -> Path:
    """The first of the folders that this process may write to."""
    writable = (Path(each) for each in _FOLDERS if os.access(each, os.W_OK | os.X_OK))
    return next(writable, Path(tempfile.gettempdir()))
