"""What a writer of checkpoints asks of the file system, a method a call: each can be counted, recorded and failed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class Disk:
    """The file system. Methods raise OSError; a file or a name outlives a power cut once it is synced."""

    def make(self, folder: Path) -> None:
        """Make a folder."""
        os.mkdir(folder)

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing; one of this name must not be there."""
        return open(path, "xb")

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Append to a file."""
        file.write(data)

    def sync(self, file: BinaryIO) -> None:
        """Return when the file's bytes are on disk."""
        file.flush()
        os.fsync(file.fileno())

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names are on disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or a folder another name in one step."""
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        """Delete a file or an empty folder."""
        if path.is_dir() and not path.is_symlink():
            os.rmdir(path)
        else:
            os.unlink(path)
