"""JSON and YAML from anybody: what a parser, or what comes after it, would stumble over is refused in one line."""

import os

import pytest

from mmkd.cli.options import read_settings
from mmkd.errors import MmkdError
from mmkd.evaluation.tasks import read_templates
from mmkd.parse import MAX_JSON, read_json, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "found NaN; expected a finite number"),
        ('{"a": -Infinity}', "found -Infinity"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 33 + "]" * 33 + "}", "nested deeper than 32 levels"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON: Exceeds the limit"),
        ("[1]", "holds a list; expected a JSON object"),
        ('{"a": 1} {', "is not valid JSON: Extra data"),
        ("", "is not valid JSON"),
    ],
)
def test_json_that_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MmkdError, match=message) as refused:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(refused.value)


def test_plain_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, -2.5e3, null, true, "\\ud83d\\ude00ä"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, -2500.0, None, True, "😀ä"]}


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kd: !!python/object/apply:os.system ['touch pwned']",
            "could not determine a constructor for the tag",
        ),
        ("kd: !!python/name:os.system", "could not determine a constructor"),
        ("kd: !mine x", "could not determine a constructor"),
        (LAUGHS, "found an alias; write the value out"),
        ("a: 1\na: 2", "a key stands twice"),
        ("a: " + "{a: " * 3000, "nested too deeply"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: 2020-99-99", "month must be in 1..12"),
        ("? [b]\n: 1", "unhashable key"),
    ],
)
def test_yaml_that_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    for read in (read_yaml, read_settings, read_templates):
        with pytest.raises(MmkdError, match=message) as refused:
            read(tmp_path / "a.yaml")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "pwned").exists()


def test_plain_yaml_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("lr: 1e-3\nkd: mse+cos\ndata: [a, 'b']\nno: ~\n")
    assert read_yaml(tmp_path / "a.yaml") == {"lr": "1e-3", "kd": "mse+cos", "data": ["a", "b"], False: None}


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_files_that_never_end_or_are_none(tmp_path, read, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"a: \xff")
    for name, message in (("pipe", "no ordinary file"), ("gone", "cannot read"), ("latin", "is not UTF-8")):
        with pytest.raises(MmkdError, match=message):
            read(tmp_path / name)
    with pytest.raises(MmkdError, match="/dev/zero is no ordinary file"):
        read(type(tmp_path)("/dev/zero"))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_JSON + 1)
    with pytest.raises(MmkdError, match="is larger than the"):
        read(tmp_path / "large")
