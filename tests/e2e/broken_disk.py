"""A small file system of its own under a battd's state directory: full, read-only, and well again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class Disk:
    """A small tmpfs.

    Attributes:
        place: Where it is mounted.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
        with open(self._filler, "ab", buffering=0) as out:
            for size in (2**20, 4096, 1):
                with suppress(OSError):
                    while True:
                        out.write(b"\0" * size)

    def free(self) -> None:
        self._filler.unlink()

    def remount(self, how: str) -> None:
        """Make it `ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Disk]:
    """A file system of that size there; the test is skipped where none may be mounted."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root to be mounted")
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Ext4:
    """A small ext4 in a file, of which the kernel can be told that it has found an error: it lets nobody write then.

    Attributes:
        place: Where it is mounted.
    """

    def __init__(self, place: Path, image: Path) -> None:
        self.place, self._image = place, image
        self._device = ""

    def make(self) -> None:
        """Make and mount it; the test is skipped where that cannot be done."""
        with open(self._image, "wb") as out:
            out.truncate(32 * 2**20)
        self.place.mkdir(mode=0o700)
        if os.geteuid() != 0 or shutil.which("mke2fs") is None:
            pytest.skip("a small ext4 needs root and mke2fs")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(self._image)], check=True, capture_output=True)
        done = self._mount()
        if done.returncode:
            pytest.skip(f"a small ext4 cannot be mounted here: {done.stderr.strip()}")
        if not self._switch.exists():
            pytest.skip("this kernel cannot be told of an error of a file system")

    def _mount(self) -> subprocess.CompletedProcess[str]:
        words = ["mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.place)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if not done.returncode:
            number = self.place.stat().st_dev
            self._device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
        return done

    @property
    def _switch(self) -> Path:
        return Path("/sys/fs/ext4") / self._device / "trigger_fs_error"

    def fail(self) -> None:
        """Have the kernel find an error: from now on it takes no writes."""
        self._switch.write_text("a test")

    def repair(self) -> None:
        """Check it, and mount it anew."""
        subprocess.run(["umount", str(self.place)], check=True)
        done = subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout
        assert self._mount().returncode == 0

    def end(self) -> None:
        if self._device:
            subprocess.run(["umount", "--lazy", str(self.place)], check=True)
