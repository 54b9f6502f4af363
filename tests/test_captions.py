"""Captions kept and dropped by rule."""

import json

import pytest

from mmkd.captions import CaptionFilter
from mmkd.data import DataSource
from mmkd.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("options", "kept", "dropped", "reason"),
    [
        ({"min_words": 3}, "a red dog", "red dog", "too few words"),
        ({"max_words": 3}, "a  red\tdog", "a red dog barks", "too many words"),
        ({"regex": r"(?i)\bdog\b"}, "A Dog.", "a doggy", "no match"),
        ({"clean": True}, "www is a web", "see WWW.shop.com", "URL"),
        ({"clean": True}, "httpd", "at http://x.y", "URL"),
        ({"clean": True}, "aaaaa . . . .b", "aaaaaa", "repeated character"),
        ({"clean": True}, "DSC 12", "DSC 1234", "few letters"),
        ({"clean": True}, "एक कुत्ता", "IMG_0042.JPG 20140101", "few letters"),
        ({"clean": True}, "红色的狗。", "🐕🐕🐕 ok", "few letters"),
    ],
)
def test_each_rule(options: dict, kept: str, dropped: str, reason: str) -> None:
    rule = CaptionFilter(**options)
    assert rule.reason(kept) is None
    assert rule.reason(dropped) == f"filtered: {reason}"
    assert CaptionFilter().reason(dropped) is None


def test_words_in_the_settings() -> None:
    assert CaptionFilter(min_words=3, max_words=40, regex="dog", clean=True).describe() == (
        "3 to 40 words, matching 'dog', clean"
    )
    assert CaptionFilter(min_words=3).describe() == "at least 3 words"
    assert CaptionFilter(max_words=3).describe() == "at most 3 words"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_words": 0}, "--min-words 0 is not at least 1"),
        ({"min_words": 5, "max_words": 4}, "--min-words 5 is more than --max-words 4"),
        ({"regex": "("}, r"--caption-regex '\(' is no regular expression"),
        ({"regex": "x" * 1001}, "1,001 characters; expected 1,000 at most"),
    ],
)
def test_rules_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CaptionFilter(**options)


def test_they_survive_json_and_leave_ordinary_sources_as_they_are() -> None:
    rule = CaptionFilter(min_words=2, regex="x", clean=True)
    source = DataSource("a.parquet", "train", "image", "caption", None, filters=rule)
    assert source.to_json()["filters"] == {"min_words": 2, "regex": "x", "clean": True}
    assert DataSource.from_json(json.loads(json.dumps(source.to_json()))) == source
    assert set(DataSource("a.parquet").to_json()) == {
        "spec",
        "split",
        "image_column",
        "caption_column",
        "template",
    }
    for value in (
        {},
        [],
        "x",
        {"min_words": "3"},
        {"min_words": True},
        {"colour": 1},
        {"regex": "("},
        {"clean": 1},
    ):
        with pytest.raises(DataError, match="found filters"):
            DataSource.from_json({"spec": "a.parquet", "filters": value})


def test_a_pair_keeps_what_passes() -> None:
    from mmkd.data import Pair

    rule = CaptionFilter(min_words=2)
    pair = Pair(b"x", ("a dog", "dog", "cat", "one cat"), synthetic=2)
    assert pair.filtered(rule) == Pair(b"x", ("a dog", "one cat"), synthetic=1)
    assert Pair(b"x", ("dog", "a cat"), synthetic=1).filtered(rule) == Pair(b"x", ("a cat",), synthetic=1)
    assert Pair(b"x", ("dog",)).filtered(rule) == Pair(b"x", (), 0, "filtered: too few words")
    assert Pair(b"x", ()).filtered(rule) == Pair(b"x", ())


def test_filtered_rows_are_masked_and_counted_but_are_no_bad_rows(tiny_encoder, tmp_path) -> None:
    from conftest import draw_pair, save_pairs

    from mmkd.cache.build import build_cache
    from mmkd.cache.store import check_data, open_cache
    from mmkd.cache.verify import verify_cache
    from mmkd.data import open_pairs

    pictures, _ = zip(*map(draw_pair, range(12)), strict=True)
    captions = ["a red dog"] * 5 + ["dog"] * 4 + ["see www.dog.com now"] * 2 + ["a blue dog"]
    images = [*pictures[:4], b"broken", *pictures[5:8], b"broken", *pictures[9:]]
    file = save_pairs(tmp_path / "pairs.parquet", images, captions)
    rule = CaptionFilter(min_words=2, clean=True)
    pairs = open_pairs([DataSource(str(file), filters=rule)])
    assert pairs.describe()[0].endswith("caption: caption · captions: at least 2 words, clean")
    manifest = build_cache(tiny_encoder, pairs, tmp_path / "cache", shard_rows=5, batch_size=4, max_bad=1 / 6)
    assert manifest is not None
    assert manifest.masked == {
        "not an image of a known format": 1,
        "filtered: URL": 2,
        "filtered: too few words": 4,
    }
    store = open_cache(tmp_path / "cache")
    assert store.usable.to_array().tolist() == [0, 1, 2, 3, 11]
    assert store.sources[0].filters == rule
    check_data(store, store.open_pairs())
    assert verify_cache(tmp_path / "cache").ok
    with pytest.raises(DataError, match=r"^1 of 6 rows cannot be used \(not an image of a known format 1\)"):
        build_cache(tiny_encoder, pairs, tmp_path / "strict", shard_rows=5, batch_size=4, max_bad=0.1)
    nothing = open_pairs([DataSource(str(file), filters=CaptionFilter(min_words=9))])
    with pytest.raises(DataError, match="the caption filters drop all of 12 rows; loosen them"):
        build_cache(tiny_encoder, nothing, tmp_path / "nothing", shard_rows=5, batch_size=4)
