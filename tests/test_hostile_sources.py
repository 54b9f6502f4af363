"""Models and data sets from anybody: no code of theirs runs, and no file that is not theirs is read."""

import gc
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import SMALL, mmkd
from conftest import draw_pair, save_pairs
from PIL import Image
from test_cache_import import import_, save_clip_retrieval, vectors
from test_hostile_shards import Watch

from mmkd.cache.store import open_cache
from mmkd.data import DataSource, open_pairs
from mmkd.encoders import load_encoder
from mmkd.errors import CacheError, DataError, ModelError


@pytest.fixture
def mark(tmp_path) -> Path:
    """Comes to be where hostile code has run."""
    return tmp_path / "was-here"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that nothing may open a file of, and what tells whether something did."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "secret.csv").write_text("image_path,caption\na.png,top secret\n")
    (folder / "0.csv").write_text("image_path,caption\na.png,top secret\n")
    draw_pair(3)[0].save(folder / "secret.png")
    watch = Watch(folder)
    yield folder, watch
    os.close(watch.descriptor)


def code(mark: Path) -> str:
    return f"from pathlib import Path\nPath({str(mark)!r}).touch()\n\nclass Evil:\n    pass\n"


def edit_json(path: Path, **changes) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **changes}))


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_code_beside_a_models_weights_is_never_run(tiny_clip, tmp_path, mark, file):
    folder = Path(shutil.copytree(tiny_clip, tmp_path / "model"))
    for name in ("evil", "modeling_clip", "tokenization_clip", "image_processing_clip"):
        (folder / f"{name}.py").write_text(code(mark))
    names = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor", "CLIPModel")
    edit_json(
        folder / f"{file}.json",
        auto_map={
            name: ["evil.Evil", "evil.Evil"] if name == "AutoTokenizer" else "evil.Evil" for name in names
        },
        trust_remote_code=True,
    )
    try:
        load_encoder(folder)
    except ModelError as refused:
        said = str(refused)
    else:
        said = ""
    assert "\n" not in said
    assert not mark.exists()


@pytest.mark.parametrize("beside", [False, True])
def test_a_data_sets_loading_script_is_never_run(tmp_path, mark, beside):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(code(mark))
    if beside:
        (folder / "list.csv").write_text("image_path,caption\na.png,one\n")
    with pytest.raises(DataError, match=r"scripts are no longer supported, but found set\.py"):
        open_pairs([DataSource(str(folder))])
    assert not mark.exists()


@pytest.mark.parametrize(
    "named", ["../elsewhere/secret.csv", "{}/secret.csv", "{}/*.csv", "file://{}/secret.csv"]
)
def test_a_data_sets_readme_names_no_other_files(tmp_path, elsewhere, named):
    folder, watch = tmp_path / "set", elsewhere[1]
    folder.mkdir()
    files = named.format(elsewhere[0])
    (folder / "README.md").write_text(
        f'---\nconfigs:\n- config_name: default\n  data_files: "{files}"\n---\n'
    )
    (folder / "list.csv").write_text("image_path,caption\na.png,one\n")
    with pytest.raises(
        DataError, match=r"the README\.md of .* names the file .*csv, which is not the data set's own"
    ):
        open_pairs([DataSource(str(folder))])
    assert not watch.opened()
    (folder / "README.md").write_text(
        '---\nconfigs:\n- config_name: default\n  data_files: "list.csv"\n---\n'
    )
    for spec in (folder, tmp_path / "elsewhere" / ".." / "set"):
        assert open_pairs([DataSource(str(spec))])[0].captions == ("one",)


def test_yaml_tags_in_a_data_sets_readme_are_refused(tmp_path, mark):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text(
        f"---\nconfigs: !!python/object/apply:os.system ['touch {mark}']\n---\n"
    )
    (folder / "list.csv").write_text("image_path,caption\na.png,one\n")
    with pytest.raises(DataError, match="could not determine a constructor for the tag"):
        open_pairs([DataSource(str(folder))])
    assert not mark.exists()


# datasets leaves its metadata file open, and when that is noticed is the garbage collector's choice.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", ["../elsewhere/secret.png", "{}/secret.png"])
def test_an_image_folders_metadata_name_no_other_files(tmp_path, elsewhere, name):
    folder, watch = tmp_path / "set", elsewhere[1]
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    (folder / "metadata.csv").write_text(f"file_name,text\na.png,one\n{name.format(elsewhere[0])},two\n")
    with pytest.raises(DataError, match="must be a relative path pointing inside"):
        open_pairs([DataSource(str(folder))])
    gc.collect()
    assert not watch.opened()


def test_tars_reach_no_other_files(tmp_path, elsewhere):
    """Links, absolute names and names that climb give no pair the bytes of another file."""
    folder, watch = elsewhere
    with tarfile.open(tmp_path / "pairs.tar", "w") as tar:
        tar.add(Path(__file__).with_name("conftest.py"), "0.txt")
        for name, kind in (("1", tarfile.SYMTYPE), ("2", tarfile.LNKTYPE), ("3", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(f"{name}.png")
            member.type, member.linkname = kind, str(folder / "secret.png")
            tar.addfile(member)
            tar.add(Path(__file__).with_name("conftest.py"), f"{name}.txt")
    watch.opened()
    pairs = open_pairs([DataSource(str(tmp_path / "pairs.tar"), None, None, "txt")], sides=("text",))
    assert [pairs[row].image for row in range(len(pairs))] == [b""] * len(pairs)
    assert not watch.opened()


@pytest.mark.parametrize(
    "name", ["../elsewhere/secret.png", "{}/secret.png", "link.png", "sub/../../elsewhere/secret.png"]
)
def test_imported_metadata_name_no_other_files(tmp_path, elsewhere, name):
    folder, watch = tmp_path / "photos", elsewhere[1]
    folder.mkdir()
    (folder / "link.png").symlink_to(elsewhere[0] / "secret.png")
    names = [name.format(elsewhere[0])] * 24
    source = save_clip_retrieval(tmp_path / "in", vectors(0), None, {"image_path": names})
    with pytest.raises(DataError, match="lies outside --images"):
        import_(source, tmp_path / "cache", images=folder)
    assert not watch.opened()
    assert not (tmp_path / "cache" / "manifest.json").exists()


def test_names_that_no_file_can_have_are_masked(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for row in range(1, 24):
        draw_pair(row)[0].save(folder / f"{row}.png")
    names = ["a\0b", *(f"{row}.png" for row in range(1, 24))]
    source = save_clip_retrieval(tmp_path / "in", vectors(0), None, {"image_path": names})
    store = import_(source, tmp_path / "cache", images=folder)
    assert store.usable.to_array().tolist() == list(range(1, 24))


def test_urls_in_the_place_of_paths_are_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    table = {"image": [{"bytes": None, "path": "http://127.0.0.1:9/a.png"}], "caption": ["one"]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    assert open_pairs([DataSource(str(tmp_path / "p.parquet"))])[0].image == b""


def test_manifests_name_no_other_files(copied_cache, elsewhere):
    folder, watch = elsewhere
    whole = json.loads((copied_cache / "manifest.json").read_text())
    for name in (
        "../elsewhere/secret.png",
        str(folder / "secret.png"),
        "./shard-00001.h5",
        "shard-1.h5",
        "shard-00002.h5",
    ):
        value = json.loads(json.dumps(whole))
        value["shards"][1]["name"] = name
        (copied_cache / "manifest.json").write_text(json.dumps(value))
        with pytest.raises(CacheError, match=r"found shard .* expected shard-00001\.h5"):
            open_cache(copied_cache)
    (copied_cache / "manifest.json").write_text(json.dumps(whole))
    (copied_cache / "shard-00001.h5").unlink()
    (copied_cache / "shard-00001.h5").symlink_to(folder / "secret.png")
    for verify in (True, False):
        with pytest.raises(CacheError, match=r"shard-00001\.h5 is missing"):
            open_cache(copied_cache, verify=verify).read(np.arange(96))
    assert not watch.opened()


def test_yaml_tags_are_refused_by_the_commands(tmp_path, mark, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = f"!!python/object/apply:os.system ['touch {mark}']\n"
    (tmp_path / "recipe.yaml").write_text(f"kd: {evil}")
    (tmp_path / "work").mkdir()
    for arguments in (
        ["train", "--config", "recipe.yaml"],
        ["cache-teacher", "--config", "recipe.yaml"],
    ):
        done = mmkd(*arguments)
        assert done.returncode == 1
        assert "could not determine a constructor for the tag" in done.stderr
    (tmp_path / "work" / "mmkd.yaml").write_text(f"train: {evil}")
    assert "could not determine a constructor" in mmkd("train").stderr
    assert not mark.exists()


def test_what_a_manifest_says_cannot_write_to_the_terminal(copied_cache, tiny_clip):
    for path in copied_cache.glob("*.json"):
        value = json.loads(path.read_text())
        value["settings"]["teacher"]["model"] = "\x1b]0;owned\x07\x1b[2J"
        path.write_text(json.dumps(value))
    done = mmkd("train", "--cache", copied_cache, *SMALL)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_two_rows_of_one_path_are_no_harm(tmp_path):
    """The honest case beside all the others: links to a data set's own files, as the Hub's cache has them."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    save_pairs(blobs / "0123", [draw_pair(1)[0]], ["one"])
    (folder / "train.parquet").symlink_to(blobs / "0123")
    assert open_pairs([DataSource(str(folder))])[0].captions == ("one",)
