"""Vectors from elsewhere that unpack to more than they seem, or are not what their names say."""

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmkd.cache.importing import plan_import, run_import
from mmkd.cache.vector_source import Columns, open_vectors
from mmkd.errors import DataError

LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmkd.cache.vector_files.MAX_UNPACKED", LIMIT)


def test_arrays_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    vectors = np.eye(8, dtype=np.float32)
    huge = {f"other{number}": np.zeros(LIMIT, np.float32) for number in range(16)}
    np.savez_compressed(tmp_path / "a.npz", text=vectors, captions=np.array(["x"] * 8), **huge)
    tracemalloc.start()
    source = open_vectors(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LIMIT
    assert np.array_equal(source.parts[0].vectors["text"].read(), vectors)
    assert source.caption == "captions"


def test_arrays_count_together(tmp_path: Path) -> None:
    half = np.ones((3 * LIMIT // 4 // 32, 8), np.float32)
    np.savez_compressed(tmp_path / "a.npz", text=half, image=half)
    assert open_vectors(tmp_path / "a.npz", Columns(text="text")).sides == ("text",)
    with pytest.raises(DataError, match=r"image and text in .* unpack to 1,573,120 bytes, and at most"):
        open_vectors(tmp_path / "a.npz")


def test_a_header_that_unpacks_to_much(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("text.npy", "w") as member,
    ):
        member.write(b"\x93NUMPY\x02\x00" + (64 * LIMIT).to_bytes(4, "little"))
        for _ in range(64):
            member.write(b" " * LIMIT)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"cannot read .*a\.npz as an .npz file"):
        open_vectors(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("side", ["caption", "text"])
def test_a_parquet_file_of_one_value_many_times(tmp_path: Path, side: str) -> None:
    rows = 20_000
    columns = {
        "text": pa.array([[1.0] * (256 if side == "text" else 1)] * rows, pa.list_(pa.float32())),
        "caption": ["x" * (10_000 if side == "caption" else 1)] * rows,
    }
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=rows)
    del columns
    assert (tmp_path / "v.parquet").stat().st_size < LIMIT / 4
    with pq.ParquetFile(tmp_path / "v.parquet") as file:
        assert file.metadata.row_group(0).total_byte_size < LIMIT
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match="has a row group of more than 1,048,576 bytes, and at most"):
        run_import(plan_import(open_vectors(tmp_path / "v.parquet"), tmp_path / "cache"))
    assert pa.total_allocated_bytes() - before < 16 * LIMIT


def test_two_files_of_one_part(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    for name in ("img_emb_0", "img_emb_00"):
        np.save(tmp_path / "img_emb" / f"{name}.npy", np.eye(4, dtype=np.float32))
    with pytest.raises(
        DataError, match=r"img_emb_0\.npy and img_emb_00\.npy in .* are both part 0; remove one"
    ):
        open_vectors(tmp_path)


def test_lengths_that_are_texts(tmp_path: Path) -> None:
    rows = [[1.0, 0.0], [0.0, 1.0]]
    pq.write_table(pa.table({"text": rows, "text_norm": ["long", "short"]}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"text_norm in .* holds texts; expected lengths of vectors"):
        run_import(plan_import(open_vectors(tmp_path / "v.parquet"), tmp_path / "cache"))
