import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from conftest import draw_pair, save_pairs
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature

from mmkd.data import DataSource, Pair, open_labelled, open_pairs, row_hash
from mmkd.errors import ConfigError, DataError
from mmkd.images import decode_image


def png(number: int) -> bytes:
    stream = io.BytesIO()
    draw_pair(number)[0].save(stream, "PNG")
    return stream.getvalue()


def save_table(path: Path, columns: dict, features: Features) -> Path:
    Dataset.from_dict(columns, features=features).to_parquet(str(path))
    return path


@pytest.fixture
def folder(tmp_path):
    """An image folder whose metadata come in another order than its files."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").write_bytes(png(number))
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}) for number in (2, 0, 1)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def check_folder_pairs(pairs, column):
    assert pairs.sources[0].caption_column == column
    found = {pair.captions[0]: pair.image for pair in (pairs[row] for row in range(len(pairs)))}
    assert found == {f"picture {number}": png(number) for number in range(3)}


def test_image_folder(folder):
    check_folder_pairs(open_pairs([DataSource(str(folder))]), "text")


@pytest.mark.parametrize(("name", "separator"), [("list.csv", ","), ("list.tsv", "\t")])
def test_csv_of_paths_is_read_from_its_own_folder(folder, name, separator):
    rows = [f"{number}.png{separator}picture {number}" for number in range(3)]
    (folder / name).write_text("\n".join([f"image_path{separator}caption", *rows]))
    check_folder_pairs(open_pairs([DataSource(str(folder / name))]), "caption")


def test_jsonl_of_paths(folder, monkeypatch):
    lines = [{"image": f"pictures/{number}.png", "caption": f"picture {number}"} for number in range(3)]
    file = folder.parent / "list.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(folder.parent)
    pairs = open_pairs([DataSource("list.jsonl")])
    check_folder_pairs(pairs, "caption")
    assert pairs.sources[0].spec == str(file)
    assert pairs.describe() == ["list.jsonl · train · 3 pairs · image: image · caption: caption"]


def test_web_dataset_tars_in_order_of_their_names(tmp_path):
    for shard in (1, 0):
        with tarfile.open(tmp_path / f"pairs-{shard}.tar", "w") as tar:
            for number in range(2 * shard, 2 * shard + 2):
                for suffix, data in (("jpg", png(number)), ("txt", f"picture {number}".encode())):
                    entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    pairs = open_pairs([DataSource(str(tmp_path / "pairs-*.tar"))])
    assert [pairs[row] for row in range(4)] == [Pair(png(n), (f"picture {n}",)) for n in range(4)]
    source = pairs.sources[0]
    assert (source.image_column, source.caption_column) == ("jpg", "txt")


def test_folder_of_parquet_files_takes_the_train_split(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        images, captions = zip(*map(draw_pair, range(count)), strict=True)
        save_pairs(tmp_path / f"{split}.parquet", list(images), list(captions))
    assert len(open_pairs([DataSource(str(tmp_path))])) == 4
    assert len(open_pairs([DataSource(str(tmp_path), split="test")])) == 2
    assert len(open_pairs([DataSource(str(tmp_path), split="train[1:3]")])) == 2
    with pytest.raises(DataError, match="has no split 'val', only train, test"):
        open_pairs([DataSource(str(tmp_path), split="val")])


def test_several_captions_are_kept_and_blank_ones_left_out(tmp_path):
    captions = [["one", "two"], ["", " ", "three"], [], None]
    path = save_pairs(tmp_path / "p.parquet", [png(n) for n in range(4)], captions, List(Value("string")))
    pairs = open_pairs([DataSource(str(path))])
    assert [pairs[row].captions for row in range(4)] == [("one", "two"), ("three",), (), ()]
    assert pairs.max_captions == 3


def test_labels_become_captions(tmp_path):
    columns = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "label": [1, 0, -1]}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["sea_lion", "T-34"])})
    path = save_table(tmp_path / "labelled.parquet", columns, features)
    pairs = open_pairs([DataSource(str(path))])
    assert [pairs[row].captions for row in range(3)] == [
        ("a photo of a T-34.",),
        ("a photo of a sea_lion.",),
        (),
    ]
    assert pairs.sources[0].template == "a photo of a {}."
    assert 'caption: "a photo of a {}." with the name of label' in pairs.describe()[0]
    other = open_pairs([DataSource(str(path), template="{}, {}!")])
    assert other[0].captions == ("T-34, T-34!",)
    with pytest.raises(ConfigError, match=r"the template 'a photo' has no \{\}"):
        open_pairs([DataSource(str(path), template="a photo")])


def test_sources_join_in_order_and_limit_counts_the_whole(pairs_parquet):
    source = DataSource(str(pairs_parquet))
    once, twice = open_pairs([source]), open_pairs([source, source], limit=100)
    assert (len(once), len(twice), twice.limit) == (96, 100, 100)
    assert [twice[row] for row in (0, 95, 96, 99)] == [once[row] for row in (0, 95, 0, 3)]
    with pytest.raises(IndexError):
        twice[100]
    with pytest.raises(IndexError):
        twice[-1]
    with pytest.raises(ConfigError, match="a limit of 0"):
        open_pairs([source], limit=0)


def test_pairs_travel_to_workers(pairs_parquet):
    pairs = open_pairs([DataSource(str(pairs_parquet))])
    packed = pickle.dumps(pairs)
    assert len(packed) < 50_000
    assert pickle.loads(packed)[17] == pairs[17]


def test_images_come_undecoded_byte_for_byte(tmp_path):
    broken = b"this is no picture"
    path = save_pairs(tmp_path / "p.parquet", [png(5), broken], ["one", "two"])
    pairs = open_pairs([DataSource(str(path))])
    assert (pairs[0].image, pairs[1].image) == (png(5), broken)
    assert decode_image(pairs[0].image).size == (40, 32)


def test_missing_files_are_empty_images(tmp_path):
    (tmp_path / "list.csv").write_text("image_path,caption\ngone.png,one\n")
    assert open_pairs([DataSource(str(tmp_path / "list.csv"))])[0] == Pair(b"", ("one",))


def test_row_hash_tells_images_and_captions_apart():
    import xxhash

    assert row_hash(Pair(b"x", ("a", "b"))) == (
        xxhash.xxh3_64_intdigest(b"x"),
        xxhash.xxh3_64_intdigest(b"a\0b"),
    )
    assert row_hash(Pair(b"x", ("a", "b")))[1] != row_hash(Pair(b"x", ("b", "a")))[1]


def test_sources_survive_json():
    source = DataSource("a/b:c", "train", "image", None, "a {}.")
    assert DataSource.from_json(json.loads(json.dumps(source.to_json()))) == source
    for value in ({}, {"spec": 3}, {"spec": "x", "colour": "y"}):
        with pytest.raises(DataError, match="found the data source"):
            DataSource.from_json(value)


def test_guesses_that_cannot_be_made_ask(tmp_path):
    two = {"one": [png(0)], "two": [png(1)], "text": ["x"]}
    features = Features({"one": Value("binary"), "two": Value("binary"), "text": Value("string")})
    path = str(save_table(tmp_path / "images.parquet", two, features))
    with pytest.raises(DataError, match=r"no image columns among one, two, text; .* --image-column"):
        open_pairs([DataSource(path)])
    assert open_pairs([DataSource(path, image_column="two")])[0] == Pair(png(1), ("x",))
    texts = {"image": [png(0)], "left": ["x"], "right": ["y"]}
    features = Features({"image": Value("binary"), "left": Value("string"), "right": Value("string")})
    path = str(save_table(tmp_path / "texts.parquet", texts, features))
    with pytest.raises(DataError, match=r"2 columns that may be captions among image, left, right"):
        open_pairs([DataSource(path)])
    assert open_pairs([DataSource(path, caption_column="right")])[0].captions == ("y",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "imag"}, r"no column 'imag', only image, caption; did you mean 'image'\?"),
        ({"caption_column": "zzz"}, r"no column 'zzz', only image, caption \(--caption-column\)"),
        ({"caption_column": "image"}, r"column 'image' .* expected text, a list of texts or a class label"),
        ({"split": "validation"}, r"no split 'validation', only train"),
    ],
)
def test_columns_and_splits_that_are_not_there(pairs_parquet, options, message):
    with pytest.raises(DataError, match=message):
        open_pairs([DataSource(str(pairs_parquet), **options)])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "nobody/nothing",
            "nobody/nothing is neither a file nor a folder here, and the Hugging Face Hub cannot",
        ),
        ("/no/such/file", "no file or folder matches /no/such/file"),
        ("pictures/*.parquet", "no file or folder matches"),
        ("typo.parquet", "no file or folder matches"),
    ],
)
def test_data_that_is_not_there(spec, message):
    with pytest.raises(DataError, match=message.replace("*", r"\*")) as caught:
        open_pairs([DataSource(spec)])
    assert "\n" not in str(caught.value)


def test_data_that_the_hub_does_not_have(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def missing(*_args, **_options):
        raise DatasetNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(datasets, "load_dataset_builder", missing)
    with pytest.raises(DataError, match="no data set nobody/nothing on the Hugging Face Hub"):
        open_pairs([DataSource("nobody/nothing")])


def test_data_that_is_broken_or_empty(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=r"cannot (read|open) .*broken\.parquet") as caught:
        open_pairs([DataSource(str(tmp_path / "broken.parquet"))])
    assert "\n" not in str(caught.value)
    (tmp_path / "notes.xyz").write_text("x")
    with pytest.raises(DataError, match=r"notes\.xyz is no data set; expected a file that ends in"):
        open_pairs([DataSource(str(tmp_path / "notes.xyz"))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot open"):
        open_pairs([DataSource(str(tmp_path / "empty"))])
    path = save_pairs(tmp_path / "rowless.parquet", [], [])
    with pytest.raises(DataError, match="has no rows in its split 'train'"):
        open_pairs([DataSource(str(path))])
    path = save_pairs(tmp_path / "blank.parquet", [png(0), png(1)], ["", "  "])
    with pytest.raises(DataError, match=r"all captions in column 'caption' of .* are empty"):
        open_pairs([DataSource(str(path))])
    with pytest.raises(DataError, match="no data set was named"):
        open_pairs([])


def test_labelled_images(tmp_path):
    columns = {"img": [{"bytes": png(n), "path": None} for n in range(3)], "fine_label": [1, 0, 1]}
    columns["coarse_label"] = [0, 0, 0]
    features = Features(
        {
            "img": ImageFeature(),
            "fine_label": ClassLabel(names=["cat", "dog"]),
            "coarse_label": ClassLabel(names=["pet"]),
        }
    )
    path = save_table(tmp_path / "pets.parquet", columns, features)
    pets = open_labelled(str(path))
    assert (len(pets), pets.class_names, pets.name) == (3, ("cat", "dog"), "pets")
    assert [pets[row] for row in range(3)] == [(png(0), 1), (png(1), 0), (png(2), 1)]
    assert open_labelled(str(path), label_column="coarse_label").class_names == ("pet",)


def test_labels_as_words_or_bare_numbers(tmp_path):
    columns = {"image": [png(0), png(1)], "label": ["dog", "cat"], "class": [7, 3]}
    features = Features({"image": Value("binary"), "label": Value("string"), "class": Value("int64")})
    path = str(save_table(tmp_path / "words.parquet", columns, features))
    words, numbers = open_labelled(path), open_labelled(path, label_column="class")
    assert (words.class_names, words[0][1], words[1][1]) == (("cat", "dog"), 1, 0)
    assert (numbers.class_names, numbers[0][1], numbers[1][1]) == ((), 7, 3)


def test_real_labelled_photos(shared_data):
    cifar = open_labelled(str(shared_data / "cifar10" / "test.parquet"))
    assert (len(cifar), cifar.class_names[:3]) == (10_000, ("airplane", "automobile", "bird"))
    assert decode_image(cifar[0][0]).size == (32, 32)
