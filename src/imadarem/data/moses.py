"""MOSES (arXiv:1811.12823): the benchmark's molecules and reference statistics.

They come out of the MIT-licensed wheel ``molsets==0.3.1``, which is only ever read as
an archive: the package itself does not import on Python 3.11 or later. Every byte is
checked against a known hash before it is parsed. A sample of 20,000 molecules is
shipped with Imadarem, for work without a network.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import md5
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imadarem.data.wheels import Wheel, cache_directory
from imadarem.errors import DataError, nearest

__all__ = [
    "MEMBER_MD5",
    "SPLITS",
    "WHEEL_SHA256",
    "MosesPaths",
    "cache_directory",
    "fetch_moses",
    "load_moses_sample",
    "load_split",
    "load_statistics",
    "read_filter_smarts",
]

SPLITS = ("train", "test", "test_scaffolds")
SAMPLE_SPLITS = ("train", "test")
WHEEL = Wheel(
    requirement="molsets==0.3.1",
    name="molsets-0.3.1-py3-none-any.whl",
    sha256="7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
    otherwise="Work with the shipped sample (load_moses_sample), or fetch",
)
WHEEL_NAME, WHEEL_SHA256 = WHEEL.name, WHEEL.sha256
MEMBER_MD5: Mapping[str, str] = MappingProxyType(
    {
        "moses/dataset/data/train.csv.gz": "712ffb13b3c0e4c24ab3faab75f5eb9e",
        "moses/dataset/data/test.csv.gz": "67c1f90c86ff795e47485b2d615dc1c8",
        "moses/dataset/data/test_scaffolds.csv.gz": "463b155c93d85d6806c6d448dcd476b7",
        "moses/dataset/data/test_stats.npz": "78f29a24941c65ba68a366f6f70267b6",
        "moses/dataset/data/test_scaffolds_stats.npz": "488e8644b88511446fd832dc5232b84f",
        "moses/metrics/mcf.csv": "98688e5b83bb64274256dab4640284b9",
        "moses/metrics/wehi_pains.csv": "e806ffcb4044e31eadd35344929ad68a",
    }
)
"""Archive member → md5 of its unpacked bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MosesPaths:
    """A wheel whose sha256 was right, and the md5 of each member to be read from it."""

    wheel: Path
    member_md5: Mapping[str, str] = field(default_factory=lambda: MEMBER_MD5)


def fetch_moses(
    cache_dir: str | Path | None = None,
    wheel: str | Path | None = None,
    *,
    wheel_sha256: str = WHEEL_SHA256,
    member_md5: Mapping[str, str] = MEMBER_MD5,
) -> MosesPaths:
    """Have the MOSES wheel in the cache: found there, copied from ``wheel``, or downloaded.

    The download (52 MB) is ``pip download --no-deps molsets==0.3.1`` with this Python, so
    pip's own settings for mirrors and proxies hold. The file appears in the cache
    complete and verified, or not at all.

    Args:
        cache_dir: Where the wheel is kept. Default: :func:`cache_directory`.
        wheel: A wheel that is already on this machine; copied instead of downloaded.
        wheel_sha256: Expected hash of the wheel.
        member_md5: Expected hashes of the members, checked when one is read.

    Raises:
        DataError: The given wheel is missing, pip fails, or the hash differs.
    """
    published = replace(WHEEL, sha256=wheel_sha256)
    return MosesPaths(wheel=published.fetch(cache_dir, wheel), member_md5=member_md5)


def load_split(paths: MosesPaths, split: str) -> list[str]:
    """SMILES of ``train`` (1,584,663), ``test`` (176,074) or ``test_scaffolds`` (176,225).

    Raises:
        DataError: The split is unknown, or the archive member is missing or altered.
    """
    if split not in SPLITS:
        raise DataError(
            f"MOSES has no split {split!r}{nearest(split, SPLITS)}. Legal: {', '.join(SPLITS)}."
        )
    packed = _member(paths, f"moses/dataset/data/{split}.csv.gz")
    return [row["SMILES"] for row in _table(packed)]


def load_statistics(paths: MosesPaths, split: str = "test") -> dict[str, dict[str, Any]]:
    """MOSES' own reference statistics of a test split, as published.

    Returns:
        ``FCD``: ``mu`` (512,), ``sigma`` (512, 512). ``SNN``: ``fps`` (N, 1024) uint8 bits
        of Morgan fingerprints. ``Frag``: ``frag`` and ``Scaf``: ``scaf``, counters of
        SMILES. ``logP``, ``SA``, ``QED``, ``weight``: ``values``, N floats.

    Raises:
        DataError: The split has no statistics, or the member is missing or altered.
    """
    legal = ("test", "test_scaffolds")
    if split not in legal:
        raise DataError(
            f"MOSES has no statistics of {split!r}{nearest(split, legal)}. "
            f"Legal: {', '.join(legal)}."
        )
    return _unpickled(_member(paths, f"moses/dataset/data/{split}_stats.npz"))


def load_moses_sample(split: str = "train") -> list[str]:
    """The shipped sample: 15,000 SMILES of MOSES' ``train`` or 5,000 of its ``test``.

    The order is random but always the same, so the first n are a fair sample too.

    Raises:
        DataError: The split is unknown.
    """
    if split not in SAMPLE_SPLITS:
        raise DataError(
            f"the shipped MOSES sample has no split {split!r}{nearest(split, SAMPLE_SPLITS)}. "
            f"Legal: {', '.join(SAMPLE_SPLITS)}; the whole set comes with fetch_moses()."
        )
    packed = files("imadarem.data").joinpath("files/moses_sample.csv.gz").read_bytes()
    smiles = [row["SMILES"] for row in _table(packed) if row["SPLIT"] == split]
    random.Random(0).shuffle(smiles)
    return smiles


def read_filter_smarts(paths: MosesPaths) -> list[tuple[str, str]]:
    """``(name, SMARTS)`` of MOSES' medicinal-chemistry (22) and PAINS (480) filters."""
    mcf = io.StringIO(_member(paths, "moses/metrics/mcf.csv").decode())
    pains = io.StringIO(_member(paths, "moses/metrics/wehi_pains.csv").decode())
    rows = [(row["names"], row["smarts"]) for row in csv.DictReader(mcf)]
    return rows + [(name.strip("<>"), smarts.strip()) for smarts, name in csv.reader(pains)]


def _unpickled(archive: bytes) -> dict[str, dict[str, Any]]:
    """The one place that unpickles: MOSES stores its statistics as a pickled dict.

    A pickle can run code, so the caller has compared the bytes with the published md5,
    inside a wheel with the published sha256; nobody else's file ever gets here.
    """
    import numpy as np

    with np.load(io.BytesIO(archive), allow_pickle=True) as members:
        statistics: dict[str, dict[str, Any]] = members["stats"].item()
    return statistics


def _table(packed: bytes) -> Iterator[dict[str, str]]:
    text = io.TextIOWrapper(gzip.GzipFile(fileobj=io.BytesIO(packed)), encoding="utf-8")
    return csv.DictReader(text)


def _member(paths: MosesPaths, name: str) -> bytes:
    """An archive member, after its hash was found right."""
    try:
        with zipfile.ZipFile(paths.wheel) as archive:
            content = archive.read(name)
    except KeyError:
        raise DataError(f"{paths.wheel} has no member {name}. Is it {WHEEL.requirement}?") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{paths.wheel} cannot be read ({error}). Fetch it again with fetch_moses()."
        ) from None
    found = md5(content, usedforsecurity=False).hexdigest()
    if found != paths.member_md5.get(name):
        raise DataError(
            f"{name} in {paths.wheel} has md5 {found}, expected {paths.member_md5.get(name)}. "
            "Nothing was read from it; fetch the wheel again with fetch_moses()."
        )
    return content
