"""What a bias evaluation starts from: words embedded by models, word vectors in files, and doubts about them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.cli.console import progress, say, warn
from mmkd.cli.eval_zero_shot import REPORT as ZERO_SHOT_REPORT
from mmkd.cli.models import TEACHER, Subject, describe, distinct_names
from mmkd.errors import DataError, MmkdError
from mmkd.runs import Run

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mmkd.encoders import PairEncoder
    from mmkd.evaluation.bias.vectors import WordVectors
    from mmkd.evaluation.bias.words import BiasWords
    from mmkd.evaluation.embedded import KeptEmbeddings

# Ours, and those of Detic's files of CLIP embeddings.
WORD_ARRAYS, VECTOR_ARRAYS = ("words", "texts"), ("vectors", "embeddings")


def say_words(words: "BiasWords") -> None:
    """One line about what is asked."""
    terms = " and ".join(
        f"{len(side)} {name}"
        for name, side in zip(words.attributes, (words.first, words.second), strict=True)
    )
    say(
        "words",
        f"{words.name} · {len(words.targets)} targets · {terms} terms · {len(words.neutral)} neutral terms · "
        f"{len(words.controls)} neutral nouns · {len(words.templates)} templates",
    )


def embed_subjects(
    encoders: "dict[str, PairEncoder]",
    words: "BiasWords",
    *,
    batch_size: int,
    kept: "KeptEmbeddings | None",
) -> "dict[str, WordVectors]":
    """Every model's vectors of the words, with progress."""
    from mmkd.evaluation.bias.vectors import embed_words

    sentences = len(words.all) * (len(words.templates) + 1)
    found = {}
    with progress("sentences") as bar:
        for name, encoder in encoders.items():
            task = bar.add_task(name, total=sentences)
            found[name] = embed_words(
                encoder,
                words,
                batch_size=batch_size,
                kept=kept,
                progress=lambda done, task=task: bar.advance(task, done),  # type: ignore[misc]
            )
    return found


def load_subjects(subjects: Sequence[Subject]) -> "dict[str, PairEncoder]":
    """Load every model, saying what it is."""
    encoders = {}
    for subject in subjects:
        encoders[subject.name] = subject.load()
        say(subject.name, describe(encoders[subject.name].spec))
    return encoders


def read_embeddings(files: Sequence[Path], words: "BiasWords") -> "dict[str, WordVectors]":
    """Word vectors from ``.npz`` files, as far as all of them have the words; the first of several is the teacher.

    Raises:
        DataError: a file is damaged, or has no words with a vector each.
        ConfigError: too few of the words are there.
    """
    from mmkd.evaluation.bias.vectors import take_vectors
    from mmkd.evaluation.bias.words import some

    read = {name: (path, *_read_npz(path)) for name, path in zip(_names(files), files, strict=True)}
    taken = {
        name: take_vectors(texts, vectors, words, source=str(path))
        for name, (path, texts, vectors) in read.items()
    }
    missing = tuple(dict.fromkeys(word for one in taken.values() for word in one.missing))
    if len(files) > 1 and missing:
        left = words.only([word for word in words.all if word not in missing])
        taken = {
            name: replace(take_vectors(texts, vectors, left, source=str(path)), missing=taken[name].missing)
            for name, (path, texts, vectors) in read.items()
        }
    for name, one in taken.items():
        say(name, f"{one.source} · {len(one.words.all)} of {len(words.all)} words · {one.bare.shape[1]}-d")
    if missing:
        warn(f"{len(missing)} words have no vector and are left out: {some(missing, 12)}")
    return taken


def zero_shot_doubts(subject: Subject, weights_hash: str, runs: Sequence[Run]) -> list[str]:
    """What the zero-shot reports of ``runs`` say against a model: at chance, or collapsed, on every set."""
    files = [file for run in runs if (file := run.folder / ZERO_SHOT_REPORT).is_file()]
    found = {file: judged for file in files if (judged := _judged(file, weights_hash))}
    if not found:
        of = f", but of other weights: {', '.join(map(str, files))}" if files else " yet"
        say("note", f"no zero-shot scores of {subject.name}{of}, so what it knows of images is not known")
    if not found or not all(nothing for judged in found.values() for nothing in judged.values()):
        return []
    sets = dict.fromkeys(name for judged in found.values() for name in judged)
    return [f"{subject.name}: at chance on {', '.join(sets)} ({', '.join(map(str, found))})"]


def _judged(file: Path, weights_hash: str) -> dict[str, bool]:
    """Whether a model is at chance, or collapsed, by set; empty where the report does not know the model."""
    from mmkd.evaluation.zero_shot_report import SCHEMA, SCHEMA_VERSION
    from mmkd.parse import read_json

    try:
        report = read_json(file)
        if (report.get("schema"), report.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
            return {}
        names = [name for name, spec in report["models"].items() if spec["weights_hash"] == weights_hash]
        results = {one["name"]: one["models"][name] for one in report["sets"] for name in names[:1]}
        return {name: bool(one["at_chance"] or one["collapsed"]) for name, one in results.items()}
    except (MmkdError, KeyError, TypeError, AttributeError) as error:
        warn(f"{file} cannot be read as a zero-shot report ({type(error).__name__}); it is left out")
        return {}


def _names(files: Sequence[Path]) -> list[str]:
    if len(files) == 1:
        return [files[0].stem]
    if len(files) == 2:
        return [TEACHER, "student"]
    return [TEACHER, *distinct_names([path.stem for path in files[1:]])]


def _read_npz(path: Path) -> "tuple[list[str], ArrayLike]":
    from mmkd.cache.vector_files import npz_headers, npz_matrix, read_npz

    headers = npz_headers(path)
    words = next((name for name in WORD_ARRAYS if name in headers), None)
    name = next((name for name in VECTOR_ARRAYS if name in headers), None)
    plain = words is not None and len(headers[words].shape) == 1 and headers[words].dtype.kind == "U"
    if words is None or name is None or not plain:
        raise DataError(
            f"{path} has the arrays {', '.join(headers) or '(none)'}; expected 'words', texts of shape (n,), and "
            "'vectors', floats of shape (n, width), as numpy.savez(FILE, words=..., vectors=...) writes them"
        )
    arrays = read_npz(path, (words, name))
    texts, matrix = arrays[words], npz_matrix(path, name, arrays[name])
    if matrix.rows != len(texts):
        raise DataError(
            f"{path} has {len(texts)} words and {matrix.rows} vectors; expected one vector a word"
        )
    return [str(text) for text in texts], matrix.read()
