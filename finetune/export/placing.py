"""What the writers of export formats share: what they have written, room on the disk, whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from finetune import placing
from finetune.errors import ResourceError
from finetune.log import megabytes

_MARGIN_BYTES = 64_000_000
"""Room kept for tokenizer, headers and the file system's own use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFile:
    """One file of an export."""

    name: str
    """Path below the export's folder, with forward slashes."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFiles:
    """A finished export: a file, or a folder of files."""

    path: Path
    files: tuple[ExportedFile, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)

    def moved(self, path: Path) -> "ExportFiles":
        """Return the export at another place; a single file has that place's name."""
        if [file.name for file in self.files] == [self.path.name]:
            return ExportFiles(path=path, files=(replace(self.files[0], name=path.name),))
        return replace(self, path=path)


def check_disk(num_bytes: int, target: Path) -> None:
    """Check that a target of so many bytes fits beside what stands there now.

    Raises:
        ResourceError: it does not; both figures are named.
    """
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    needed, free = num_bytes + _MARGIN_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{target}: the merged model needs {megabytes(needed)}, the disk has {megabytes(free)} free; "
            "free some space, or set output_dir=… to another disk"
        )


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Yield the path to write to; put what was written there into the target's place, or leave the target as it was.

    Raises:
        ResourceError: the disk became full.
    """
    try:
        with placing.placed(target) as staged:
            yield staged
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{target}: the disk became full; free some space and export again") from error
        raise
