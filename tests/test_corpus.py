"""Token corpora and the batches drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.corpus import LengthBuckets, TokenCorpus, collate
from imadarem.errors import CheckpointError, DataError

rows_of_ids = st.lists(
    st.lists(st.integers(0, 255), min_size=1, max_size=9), min_size=1, max_size=20
)


@given(rows_of_ids)
def test_a_saved_corpus_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    TokenCorpus.from_rows(rows, 256).save(folder)
    loaded = TokenCorpus.load(folder)
    assert [row.tolist() for row in loaded] == rows
    assert loaded.tokens.dtype == np.uint8


def test_ids_take_the_smallest_type() -> None:
    assert TokenCorpus.from_rows([[0]], 257).tokens.dtype == np.uint16
    assert TokenCorpus.from_rows([[0]], 70_000).tokens.dtype == np.uint32


def test_lengths_are_counted() -> None:
    corpus = TokenCorpus.from_rows([[1], [1, 2, 3], [4]], 9)
    assert corpus.length_counts() == [0, 2, 0, 1]


def test_long_rows_are_left_out_and_none_left_is_an_error() -> None:
    corpus = TokenCorpus.from_rows([[1], [1, 2, 3], [4]], 9)
    assert [row.tolist() for row in corpus.no_longer_than(2)] == [[1], [4]]
    with pytest.raises(DataError, match="shortest has 1"):
        corpus.no_longer_than(0)


def test_long_rows_are_cut_into_chunks_or_packed_and_no_token_is_lost() -> None:
    corpus = TokenCorpus.from_rows([[1], [2, 3, 4, 5, 6], [7, 8]], 9)
    assert [r.tolist() for r in corpus.cut(2, "chunk")] == [[1], [2, 3], [4, 5], [6], [7, 8]]
    assert [r.tolist() for r in corpus.cut(3, "pack")] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert [r.tolist() for r in corpus.cut(2, "drop")] == [[1], [7, 8]]


def test_an_empty_corpus_is_refused() -> None:
    for rows in ([], [[1], []]):
        with pytest.raises(DataError):
            TokenCorpus.from_rows(rows, 9)


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete"):
        TokenCorpus.load(tmp_path)
    TokenCorpus.from_rows([[1, 2]], 9).save(tmp_path)
    (tmp_path / "tokens.npy").write_bytes(b"short")
    with pytest.raises(CheckpointError):
        TokenCorpus.load(tmp_path)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 3),
)
def test_an_epoch_shows_each_row_at_most_once_and_few_not_at_all(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    buckets = LengthBuckets(np.array(lengths), batch_size, seed)
    steps = buckets.steps_per_epoch
    seen = [i for s in range(steps) for i in buckets.batch(epoch * steps + s).tolist()]
    assert len(seen) == len(set(seen))
    assert len(lengths) - len(seen) < min(batch_size, len(lengths))


@given(st.integers(0, 99), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_a_batch_is_a_function_of_seed_and_step(seed: int, steps: list[int]) -> None:
    lengths = np.arange(1, 50) % 7 + 1
    once = LengthBuckets(lengths, 8, seed)
    for step in steps:  # in any order, as after a resume
        again = LengthBuckets(lengths, 8, seed).batch(step)
        assert np.array_equal(once.batch(step), again)


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 50, size=6400)
    buckets = LengthBuckets(lengths, 32, 0)
    spreads = [np.ptp(lengths[buckets.batch(s)]) for s in range(buckets.steps_per_epoch)]
    # 64 batches sorted over 40 lengths: about two batches per length.
    assert np.mean(spreads) < 2


def test_epochs_differ() -> None:
    buckets = LengthBuckets(np.ones(100, dtype=int), 10, 0)
    assert not np.array_equal(buckets.batch(0), buckets.batch(10))


def test_collating_pads_and_masks() -> None:
    ids, mask = collate([np.array([3, 4, 5]), np.array([6])], pad_id=9)
    assert ids.tolist() == [[3, 4, 5], [6, 9, 9]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]
