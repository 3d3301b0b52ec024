"""MOSES out of its wheel: nothing is parsed before its hash is right."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections import Counter
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pytest

from imadarem.data.molecules import canonical
from imadarem.data.moses import (
    SPLITS,
    WHEEL_NAME,
    WHEEL_SHA256,
    cache_directory,
    fetch_moses,
    load_moses_sample,
    load_split,
    load_statistics,
    read_filter_smarts,
)
from imadarem.errors import DataError

DATA = "moses/dataset/data/"


def statistics_archive(content: object) -> bytes:
    """As MOSES writes it: an npz with a pickled dict under ``stats``."""
    stream = io.BytesIO()
    np.savez(stream, stats=np.array(content, dtype=object))
    return stream.getvalue()


STATISTICS = {
    "FCD": {"mu": np.zeros(2, np.float32), "sigma": np.eye(2)},
    "SNN": {"fps": np.eye(2, 1024, dtype=np.uint8)},
    "Frag": {"frag": Counter({"CCO": 2})},
    "Scaf": {"scaf": Counter()},
    **{name: {"values": [1.0, 2.0]} for name in ("logP", "SA", "QED", "weight")},
}


def members() -> dict[str, bytes]:
    tables = {f"{DATA}{s}.csv.gz": gzip.compress(b"SMILES\nCCO\nCCN\n") for s in SPLITS}
    return tables | {
        f"{DATA}test_stats.npz": statistics_archive(STATISTICS),
        "moses/metrics/mcf.csv": b"names,smarts\nMCF1,[#6]=O\n",
        "moses/metrics/wehi_pains.csv": b'"[#7]  ","<regId=a(1)>"\n',
        "molsets-0.3.1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: molsets\n"
        b"Version: 0.3.1\n",
        "molsets-0.3.1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        "molsets-0.3.1.dist-info/RECORD": b"",
    }


class TinyWheel:
    """A wheel of the same shape as MOSES', and the hashes that belong to it."""

    def __init__(self, folder: Path, content: dict[str, bytes] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.content = content or members()
        self.path = folder / WHEEL_NAME
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, body in self.content.items():
                archive.writestr(name, body)
        self.hashes = {
            "wheel_sha256": sha256(self.path.read_bytes()).hexdigest(),
            "member_md5": {name: md5(body).hexdigest() for name, body in self.content.items()},
        }


@pytest.fixture
def tiny(tmp_path):
    return TinyWheel(tmp_path / "have")


def test_a_given_wheel_is_verified_kept_and_read(tiny, tmp_path):
    paths = fetch_moses(tmp_path / "cache", tiny.path, **tiny.hashes)
    assert paths.wheel == tmp_path / "cache" / WHEEL_NAME
    assert [load_split(paths, split) for split in SPLITS] == [["CCO", "CCN"]] * 3
    assert read_filter_smarts(paths) == [("MCF1", "[#6]=O"), ("regId=a(1)", "[#7]")]
    statistics = load_statistics(paths)
    assert statistics["Frag"]["frag"] == {"CCO": 2}
    assert statistics["SNN"]["fps"].sum() == 2


def test_a_wheel_in_the_cache_is_found_again(tiny, tmp_path):
    fetch_moses(tmp_path / "cache", tiny.path, **tiny.hashes)
    tiny.path.unlink()
    assert load_split(fetch_moses(tmp_path / "cache", **tiny.hashes), "test") == ["CCO", "CCN"]


def test_a_wheel_with_another_hash_leaves_nothing_behind(tiny, tmp_path):
    with pytest.raises(DataError, match=f"expected {WHEEL_SHA256}"):
        fetch_moses(tmp_path / "cache", tiny.path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_wheel_in_the_cache_is_replaced(tiny, tmp_path):
    kept = tmp_path / "cache" / WHEEL_NAME
    kept.parent.mkdir()
    kept.write_bytes(b"cut off")
    fetch_moses(kept.parent, tiny.path, **tiny.hashes)
    assert kept.read_bytes() == tiny.path.read_bytes()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_pickle_with_another_md5_is_never_opened(tmp_path):
    content = members() | {f"{DATA}test_stats.npz": statistics_archive(Bomb(tmp_path / "hit"))}
    altered = TinyWheel(tmp_path / "have", content)
    hashes = altered.hashes | {"member_md5": {f"{DATA}test_stats.npz": "0" * 32}}
    paths = fetch_moses(tmp_path / "cache", altered.path, **hashes)
    with pytest.raises(DataError, match="Nothing was read"):
        load_statistics(paths)
    assert not (tmp_path / "hit").exists()


def test_unknown_splits_and_missing_wheels_name_the_legal_ones(tiny, tmp_path):
    paths = fetch_moses(tmp_path / "cache", tiny.path, **tiny.hashes)
    with pytest.raises(DataError, match="train, test, test_scaffolds"):
        load_split(paths, "trian")
    with pytest.raises(DataError, match="Legal: test, test_scaffolds"):
        load_statistics(paths, "train")
    with pytest.raises(DataError, match="there is no wheel"):
        fetch_moses(tmp_path / "cache", tmp_path / "none.whl")
    with pytest.raises(DataError, match="no member"):
        load_statistics(paths, "test_scaffolds")


@pytest.mark.slow
def test_the_download_is_pip_with_its_own_settings(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny.path.parent))
    paths = fetch_moses(tmp_path / "cache", **tiny.hashes)
    assert load_split(paths, "train") == ["CCO", "CCN"]


@pytest.mark.slow
def test_a_failed_download_points_to_the_shipped_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DataError, match="load_moses_sample"):
        fetch_moses(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("IMADAREM_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("IMADAREM_CACHE")
    assert cache_directory() == Path.home() / ".cache" / "imadarem"


# --- the shipped sample


def test_the_shipped_sample_has_the_stated_sizes_and_no_overlap():
    train, test = load_moses_sample("train"), load_moses_sample("test")
    assert (len(set(train)), len(set(test))) == (15_000, 5_000)
    assert set(train).isdisjoint(test)
    with pytest.raises(DataError, match="Legal: train, test"):
        load_moses_sample("valid")


def test_the_shipped_sample_is_canonical_and_its_order_is_fixed():
    some = load_moses_sample("train")[:200]
    # MOSES wrote them with an RDKit of 2020; RDKit 2026.9 writes 3 of 15,000 otherwise.
    assert sum(canonical(smiles) != smiles for smiles in some) <= 1
    assert None not in map(canonical, some)
    assert load_moses_sample("train")[:200] == some
    assert some != sorted(some)


def test_the_shipped_sample_is_drawn_from_the_wheel(tiny, tmp_path):
    """With the true wheel in the cache; with the tiny one the draw is refused as too small."""
    kept = cache_directory() / WHEEL_NAME
    if kept.is_file():
        paths = fetch_moses()
        assert set(load_moses_sample("test")) <= set(load_split(paths, "test"))
    else:
        script = Path(__file__).parents[1] / "scripts" / "make_moses_sample.py"
        command = [sys.executable, str(script), str(tiny.path)]
        env = os.environ | {"IMADAREM_CACHE": str(tmp_path / "cache")}
        run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert run.returncode != 0 and WHEEL_SHA256 in run.stderr
