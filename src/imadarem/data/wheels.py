"""Data and weights that are published as a wheel: fetched by pip, verified, read as an archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from imadarem.errors import DataError


def cache_directory() -> Path:
    """``$IMADAREM_CACHE``, or ``~/.cache/imadarem``; not created here."""
    given = os.environ.get("IMADAREM_CACHE", "")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "imadarem"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A published wheel.

    Attributes:
        requirement: What pip is asked for.
        name: Of the file.
        sha256: Of the file, in hexadecimal.
        otherwise: What a user does who cannot download it; the message goes on with "the wheel".
    """

    requirement: str
    name: str
    sha256: str
    otherwise: str

    def fetch(self, cache_dir: str | Path | None = None, given: str | Path | None = None) -> Path:
        """Have the wheel in the cache: found there, copied from ``given``, or downloaded.

        The download is ``pip download --no-deps`` with this Python, so pip's own settings for
        mirrors and proxies hold. The file appears in the cache complete and verified, or not at
        all.

        Args:
            cache_dir: Where the wheel is kept. Default: :func:`cache_directory`.
            given: A wheel that is already on this machine; copied instead of downloaded.

        Raises:
            DataError: The given wheel is missing, pip fails, or the hash differs.
        """
        cache = Path(cache_dir).expanduser() if cache_dir is not None else cache_directory()
        cached = cache / self.name
        if given is None and cached.is_file() and _sha256(cached) == self.sha256:
            return cached
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".wheel-") as folder:
            where = Path(folder)
            arrived = self._copied(Path(given), where) if given else self._downloaded(where)
            found = _sha256(arrived)
            if found != self.sha256:
                raise DataError(
                    f"{given or self.requirement} has sha256 {found}, expected {self.sha256}. "
                    "It is damaged or another version, and was not kept; fetch it again."
                )
            os.replace(arrived, cached)
        return cached

    def _copied(self, wheel: Path, folder: Path) -> Path:
        wheel = wheel.expanduser()
        if not wheel.is_file():
            raise DataError(
                f"there is no wheel {wheel}. Leave it out to download {self.requirement}."
            )
        return Path(shutil.copyfile(wheel, folder / self.name))

    def _downloaded(self, folder: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", str(folder), self.requirement]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        arrived = folder / self.name
        if run.returncode != 0 or not arrived.is_file():
            lines = run.stderr.strip().splitlines() or ["no message"]
            raise DataError(
                f"pip could not download {self.requirement}: {lines[-1]} {self.otherwise} the "
                "wheel on another machine and give its path."
            )
        return arrived


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
