"""``mmkd cache import``: vectors that others made, and the towers that are trained on them."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import mmkd
from conftest import draw_pair

from mmkd.cache.importing import plan_import, run_import, unit_vectors
from mmkd.cache.manifest import CacheManifest, read_manifest
from mmkd.cache.store import open_cache
from mmkd.cache.vector_source import Columns, open_vectors
from mmkd.encoders import read_teacher_spec
from mmkd.errors import CacheError, DataError, StaleCacheError

ROWS, DIM = 24, 32
SMALL = ["--batch-size", "8", "--epochs", "1", "--workers", "0"]


def vectors(seed: int, rows: int = ROWS, dim: int = DIM, dtype: str = "float32") -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal((rows, dim))).astype(dtype)


def texts(rows: int = ROWS) -> list[str]:
    return [f"a thing, number {row}" for row in range(rows)]


def save_clip_retrieval(folder: Path, image=None, text=None, columns=None, parts: int = 2) -> Path:
    """Files as clip-retrieval's own writer names and fills them."""
    for name, array in (("img_emb", image), ("text_emb", text)):
        if array is not None:
            (folder / name).mkdir(parents=True)
            for number, part in enumerate(np.array_split(array, parts)):
                np.save(folder / name / f"{name}_{number}.npy", part)
    if columns is not None:
        (folder / "metadata").mkdir(parents=True)
        for number, rows in enumerate(np.array_split(np.arange(len(next(iter(columns.values())))), parts)):
            table = pa.table({name: [values[row] for row in rows] for name, values in columns.items()})
            pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def import_(source: Path, out: Path, columns: Columns = Columns(), **options):  # noqa: B008
    run_import(plan_import(open_vectors(source, columns), out, **options), max_bad=1.0)
    return open_cache(out)


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def text_npz(tmp_path: Path) -> Path:
    return npz(tmp_path / "t.npz", text=vectors(1), captions=np.array(texts()))


def test_clip_retrieval_gives_both_sides_captions_and_norms(tmp_path):
    image, text = vectors(0), vectors(1, dtype="float16")
    links = [f"https://example.org/{row}.jpg" for row in range(ROWS)]
    folder = save_clip_retrieval(tmp_path / "in", image, text, {"caption": texts(), "url": links})
    store = import_(folder, tmp_path / "cache", shard_rows=10)
    found = store.read(np.arange(ROWS))
    assert np.allclose(found.raw_image, image, rtol=2e-3, atol=1e-3)
    assert np.allclose(found.raw_text, text, rtol=2e-3, atol=1e-3)
    assert np.allclose(found.image_norm[:, 0], np.linalg.norm(image, axis=1), rtol=1e-3)
    pairs = store.open_pairs()
    assert [pairs[row].captions for row in range(ROWS)] == [(text,) for text in texts()]
    assert (store.sides, store.readable, store.spec.known) == (("image", "text"), ("text",), False)
    assert pq.read_table(tmp_path / "cache" / "pairs.parquet").to_pydict()["url"] == links
    assert (
        len(np.unique(store.hashes(np.arange(ROWS))[:, 0])) == ROWS
    )  # vectors stand for images that were not given


def test_rows_run_on_from_part_to_part_in_the_order_of_their_numbers(tmp_path):
    text = vectors(1, rows=12)
    folder = save_clip_retrieval(tmp_path / "in", None, text, {"caption": texts(12)}, parts=12)
    store = import_(folder, tmp_path / "cache", shard_rows=5)
    assert np.allclose(
        store.read(np.arange(12)).raw_text, text, rtol=2e-3, atol=1e-3
    )  # 10 after 9, not after 1


@pytest.mark.parametrize("kind", ["list", "large", "fixed", "half"])
def test_parquet_columns_of_vectors(tmp_path, kind):
    image, text = vectors(0), vectors(1)
    types = {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float64()),
        "fixed": pa.list_(pa.float32(), DIM),
        "half": pa.list_(pa.float16()),
    }
    rows = list(image.astype(np.float16) if kind == "half" else image)
    columns = {"a": pa.array(rows, types[kind]), "b": pa.array([*text[:-1].tolist(), None]), "words": texts()}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", row_group_size=7)
    store = import_(tmp_path / "v.parquet", tmp_path / "cache", Columns("a", "b", "words"))
    found = store.read(np.arange(ROWS - 1))
    assert np.allclose(found.raw_image, image[:-1], rtol=3e-3, atol=3e-3)
    assert np.allclose(found.raw_text, text[:-1], rtol=2e-3, atol=1e-3)
    assert store.manifest.masked == {"vector not finite": 1}


def test_npy_beside_a_text_file_takes_blank_lines_for_rows(tmp_path):
    np.save(tmp_path / "text_vectors.npy", vectors(1))
    lines = texts()
    lines[3] = " "
    (tmp_path / "text_vectors.txt").write_text("\r\n".join(lines) + "\r\n")
    store = import_(tmp_path / "text_vectors.npy", tmp_path / "cache")
    assert store.manifest.masked == {"no caption": 1}
    assert store.open_pairs()[4].captions == ("a thing, number 4",)
    assert store.usable.listed.tolist() == [3]


def test_zeros_and_what_is_not_finite_are_masked_and_counted(tmp_path):
    image = vectors(0)
    image[2], image[5, 1], image[7, 0] = 0, np.nan, np.inf
    np.save(tmp_path / "image.npy", image)
    store = import_(tmp_path / "image.npy", tmp_path / "cache")
    assert store.manifest.masked == {"vector not finite": 2, "vector of zeros": 1}
    assert store.usable.listed.tolist() == [2, 5, 7]
    assert not store.read(np.array([2, 5, 7])).raw_image.any()
    assert not store.read(np.arange(ROWS)).raw_text.any()  # a side that is not there
    done = mmkd("cache", "import", tmp_path / "image.npy", "--out", tmp_path / "strict")
    assert (done.returncode, "3 of 24 rows cannot be used" in done.stderr) == (1, True)


def test_unit_vectors_of_any_type():
    raw = vectors(0, dtype="float64")
    unit, norm = unit_vectors(raw)
    assert np.allclose(norm, np.linalg.norm(raw, axis=1), rtol=1e-6)
    assert np.abs(np.linalg.norm(unit.astype(float), axis=1) - 1).max() < 5e-4
    again, one = unit_vectors(unit)
    assert again.tobytes() == unit.tobytes()
    assert (one == 1).all()
    huge = unit_vectors(np.array([[3e38, 3e38], [1e-30, 0]], dtype=np.float64))
    assert np.isfinite(huge[0]).all()
    assert np.isinf(unit_vectors(np.full((1, 2), 1e200))[1]).all()


def test_a_killed_import_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    folder = save_clip_retrieval(tmp_path / "in", vectors(0), vectors(1), {"caption": texts()})
    import_(folder, tmp_path / "whole", shard_rows=5)
    from mmkd.cache import importing

    plain, made = importing.write_record, []

    def killed(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(plain(*arguments))

    monkeypatch.setattr(importing, "write_record", killed)
    with pytest.raises(KeyboardInterrupt):
        import_(folder, tmp_path / "cache", shard_rows=5)
    with pytest.raises(CacheError, match="is not finished"):
        open_cache(tmp_path / "cache")
    monkeypatch.setattr(importing, "write_record", plain)
    plan = plan_import(open_vectors(folder), tmp_path / "cache", shard_rows=5)
    assert sorted(plan.done) == [0, 1]
    run_import(plan)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("whole", "cache")]
    assert contents[0] == contents[1]


def test_other_vectors_do_not_go_into_the_same_folder(tmp_path, text_npz):
    import_(text_npz, tmp_path / "cache")
    npz(text_npz, text=vectors(2), captions=np.array(texts()))
    with pytest.raises(StaleCacheError, match="vectors from elsewhere, or changed since"):
        import_(text_npz, tmp_path / "cache")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(CacheError, match=r"holds something else than a cache \(letter.txt\)"):
        import_(text_npz, tmp_path / "full")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def spoil(name: str, folder: Path) -> tuple[Path, Columns]:  # noqa: PLR0911, PLR0912
    """A source that must be refused."""
    file = folder / f"{name}.npz"
    if name == "unequal":
        return npz(file, image=vectors(0), text=vectors(1, 23)), Columns()
    if name == "widths":
        return npz(file, image=vectors(0), text=vectors(1, dim=16)), Columns()
    if name == "integers":
        return npz(file, text=np.ones((4, 4), int)), Columns(text="text")
    if name == "flat":
        return npz(file, text=np.ones(4)), Columns(text="text")
    if name == "column":
        return npz(file, text=vectors(0), words=np.array(texts())), Columns(caption="word")
    if name == "guess":
        return npz(file, embeddings=vectors(0)), Columns()
    if name == "pickle":
        np.save(folder / "text.npy", np.array([[Evil()]]), allow_pickle=True)
        return folder / "text.npy", Columns()
    if name == "pickle-npz":
        np.savez(file, text=np.array([[Evil()]]))
        return file, Columns(text="text")
    if name == "lines":
        np.save(folder / "text.npy", vectors(0))
        (folder / "text.txt").write_text("one\ntwo\n")
        return folder / "text.npy", Columns()
    if name == "short":
        np.save(folder / "text.npy", vectors(0))
        (folder / "text.npy").write_bytes((folder / "text.npy").read_bytes()[:-5])
        return folder / "text.npy", Columns()
    if name == "claim":
        np.save(folder / "text.npy", vectors(0))
        raw = (folder / "text.npy").read_bytes().replace(b"(24, 32), }         ", b"(64000000000, 32), }")
        (folder / "text.npy").write_bytes(raw)
        return folder / "text.npy", Columns()
    if name == "claim-npz":
        npz(folder / "small.npz", text=np.zeros((24, 32), np.float32))
        with zipfile.ZipFile(folder / "small.npz") as archive:
            raw = archive.read("text.npy").replace(b"(24, 32), }         ", b"(64000000000, 32), }")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("text.npy", raw)
        return file, Columns(text="text")
    if name == "bomb":
        np.savez_compressed(file, text=np.zeros((1 << 14, 64), np.float32))
        return file, Columns(text="text")
    if name == "parts":
        save_clip_retrieval(folder / "in", vectors(0), vectors(1), {"caption": texts()})
        (folder / "in/text_emb/text_emb_1.npy").unlink()
        return folder / "in", Columns()
    if name == "metadata":
        return save_clip_retrieval(folder / "in", vectors(0), None, {"caption": texts(22)}), Columns()
    if name == "ragged":
        pq.write_table(pa.table({"text": [[1.0, 2.0], [1.0]]}), folder / "v.parquet")
        return folder / "v.parquet", Columns()
    if name == "not-parquet":
        (folder / "v.parquet").write_bytes(b"PAR1 and no more")
        return folder / "v.parquet", Columns()
    return folder / "nowhere", Columns()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unequal", "image in .* has 24 rows, but text in .* 23; expected one row a pair"),
        ("widths", "text in .* has vectors of width 16, and others have 32"),
        ("integers", "text in .* holds no vectors; expected rows of floats"),
        ("flat", "text in .* holds no vectors"),
        ("column", r"has no column 'word', only words \(--caption-column\)"),
        ("guess", "cannot tell which side the vectors of .* are of among embeddings"),
        ("pickle", "it holds pickled objects, which are not loaded"),
        ("pickle-npz", "it holds pickled objects, which are not loaded"),
        ("lines", "text.txt has 2 texts, but .*text.npy 24 vectors; expected a text a row"),
        ("short", "cannot read .*text.npy as an .npy file of vectors"),
        ("claim", "cannot read .*text.npy as an .npy file of vectors"),
        ("claim-npz", "its header claims 8,192,000,000,000 bytes, and it has 3,072"),
        ("bomb", "unpack to 4,194,432 bytes, .* save each as an .npy file"),
        ("parts", "text_emb has no part 1, which others"),
        ("metadata", "metadata_0.parquet has 11 texts, but .*img_emb_0.npy 12 vectors"),
        ("ragged", "has lists of 1, 2 numbers; expected vectors of one width"),
        ("not-parquet", "cannot read .*v.parquet as a Parquet file"),
        ("nowhere", "holds no vectors that can be imported; expected clip-retrieval's folder"),
    ],
)
def test_one_line_for_what_cannot_be_imported(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmkd.cache.vector_files.MAX_UNPACKED", 1 << 20)
    source, columns = spoil(name, tmp_path)
    with pytest.raises(DataError, match=message) as refused:
        open_vectors(source, columns)
    assert "\n" not in str(refused.value)
    assert not Path("pwned").exists()


def test_only_an_imported_cache_may_have_an_unknown_teacher(tmp_path, text_npz):
    manifest = json.loads(json.dumps(import_(text_npz, tmp_path / "cache").manifest.to_json()))
    assert CacheManifest.from_json(manifest).settings.imported.form == "numpy"
    assert manifest["settings"]["teacher"]["weights_hash"] == "unknown"
    for change in (
        lambda value: value["settings"].pop("imported"),
        lambda value: value["settings"]["teacher"].update(logit_scale=100.0),
        lambda value: value["settings"]["imported"].update(sides=["text", "image"]),
        lambda value: value["settings"]["imported"].update(more=1),
        lambda value: value["settings"].update(sources=value["settings"]["sources"] * 2),
    ):
        other = json.loads(json.dumps(manifest))
        change(other)
        with pytest.raises(CacheError):
            CacheManifest.from_json(other)


@pytest.fixture
def student_folder(tiny_clip, tmp_path) -> Path:
    """A student's config, tokenizer and image processor, and no weights."""
    shutil.copytree(tiny_clip, tmp_path / "student", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "student"


def test_a_text_tower_is_trained_on_texts_alone(tmp_path, text_npz, student_folder, monkeypatch):
    done = mmkd("cache", "import", text_npz, "--out", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "what made these vectors is recorded as unknown" in done.stderr
    monkeypatch.setattr("mmkd.batches.decode_image", None)
    text_npz.unlink()  # the cache holds the texts
    options = ["--cache", tmp_path / "cache", "--model-config", student_folder / "config.json", *SMALL]
    one = ["--towers", "text", "--task", "none", "--kd", "mse+cos"]
    done = mmkd("train", *one, *options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "the teacher could not be checked" in done.stderr
    assert "image: untrained, 4 layers, frozen" in done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["teacher"], record["pairs"], record["steps"]) == (None, ROWS, 3)
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "distilled from embeddings of an unknown teacher" in card
    assert "Its image tower is not trained" in card
    for wrong, message in (
        (
            ["--towers", "text"],
            "clip compares images with texts, and .* holds no vectors of images; use --task none",
        ),
        ([], "was imported without images, which --towers both needs; use --towers text --task none"),
        ([*one, "--depth", "2"], "--depth 2 is for a student of a cached teacher"),
        ([*one, "--val-data", "x.parquet"], None),
    ):
        done = mmkd("train", *wrong, *options)
        assert done.returncode == 1
        assert message is None or re.search(message, done.stderr), done.stderr
    done = mmkd("train", *one, "--cache", tmp_path / "cache")
    assert "does not say what made its vectors; pass --teacher" in done.stderr


def test_a_text_tower_learns_what_the_vectors_say(tmp_path, tiny_encoder, tiny_clip):
    """The right vectors drive the loss down, and the student near them: those of a real tower's own texts."""
    raw = tiny_encoder.encode_texts(texts()).numpy()
    source = npz(tmp_path / "t.npz", text=raw, captions=np.array(texts()))
    store = import_(source, tmp_path / "cache", teacher=read_teacher_spec(tiny_clip))
    assert store.spec.known
    options = ["--towers", "text", "--task", "none", "--kd", "mse+cos", "--cache", tmp_path / "cache"]
    done = mmkd("train", *options, *SMALL, "--epochs", "8", "--lr", "3e-3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"imported text vectors, said to be of {tiny_clip}" in done.stderr
    assert "could not be checked" not in done.stderr
    from mmkd.encoders import load_encoder

    found = load_encoder(tmp_path / "run" / "student").encode_texts(texts()).numpy()
    cosine = (found * raw).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(raw, axis=1)
    assert cosine.mean() > 0.97


def test_an_image_tower_is_trained_on_images_of_a_named_folder(tmp_path, tiny_clip, tiny_encoder):
    folder = tmp_path / "photos"
    folder.mkdir()
    pictures = [draw_pair(row)[0] for row in range(ROWS)]
    for row, picture in enumerate(pictures):
        picture.save(folder / f"{row}.png")
    (folder / "5.png").write_bytes(b"no picture")
    names = [f"{row}.png" for row in range(ROWS)]
    raw = tiny_encoder.encode_images(pictures).numpy()
    source = save_clip_retrieval(tmp_path / "in", raw, None, {"image_path": names})
    spec = read_teacher_spec(tiny_clip)
    store = import_(source, tmp_path / "cache", teacher=spec, images=folder)
    assert (store.sides, store.readable, sum(store.manifest.masked.values())) == (("image",), ("image",), 1)
    options = ["--towers", "image", "--task", "none", "--kd", "mse+cos", "--cache", tmp_path / "cache"]
    done = mmkd("train", *options, *SMALL, "--batch-size", "4", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes())
    done = mmkd("train", *options, *SMALL, "--batch-size", "4")
    assert "was made from other data: 1 of 24 rows looked at" in done.stderr
    outside = save_clip_retrieval(tmp_path / "evil", raw, None, {"image_path": ["../../etc/passwd"] * ROWS})
    with pytest.raises(DataError, match="lies outside --images"):
        import_(outside, tmp_path / "other", images=folder)


def test_a_caption_that_changed_in_the_cache_is_noticed(tmp_path, text_npz, student_folder):
    import_(text_npz, tmp_path / "cache")
    pairs = tmp_path / "cache" / "pairs.parquet"
    pq.write_table(pa.table({"caption": ["another", *texts()[1:]]}), pairs)
    train = (
        *("train", "--towers", "text", "--task", "none", "--cache", tmp_path / "cache"),
        *("--model-config", student_folder / "config.json", *SMALL),
    )
    assert "pairs.parquet is damaged: its bytes hash to " in mmkd(*train).stderr
    manifest = tmp_path / "cache" / "manifest.json"  # of an mmkd that did not hash it
    manifest.write_text(re.sub(r',\s*"pairs_xxh3_128": "\w+"', "", manifest.read_text()))
    assert read_manifest(tmp_path / "cache").settings.imported.pairs_xxh3_128 is None
    done = mmkd(*train)
    assert "was made from other data: 1 of 24 rows looked at differ, the first of them row 0" in done.stderr


def test_vectors_of_another_width_than_the_teachers_are_refused(tmp_path, tiny_clip):
    np.save(tmp_path / "text.npy", vectors(0, dim=16))
    done = mmkd("cache", "import", tmp_path / "text.npy", "--teacher", tiny_clip, "--out", tmp_path / "cache")
    assert "holds vectors of width 16, but" in done.stderr


def test_real_embeddings_keep_their_meaning(shared_data, tmp_path):
    """59 names are in both sets: their imported vectors agree as the data's own description says, at 0.994."""
    stores = {}
    for name in ("lvis", "coco"):
        file = shared_data / "clip-embeddings" / f"{name}_text_vitb32.npz"
        stores[name] = import_(file, tmp_path / name, Columns(text="embeddings", caption="texts"))
    rows = {}
    for name, store in stores.items():
        pairs = store.open_pairs()
        rows[name] = {pairs[row].captions[0]: row for row in range(len(pairs))}
    shared = sorted(rows["lvis"].keys() & rows["coco"].keys())
    sides = [
        store.read(np.array([rows[name][text] for text in shared])).text.numpy()
        for name, store in stores.items()
    ]
    assert len(shared) == 59
    assert (sides[0] * sides[1]).sum(axis=1).mean() == pytest.approx(0.994, abs=5e-4)
