"""What a bias evaluation starts from: words embedded by models, word vectors in files, and doubts about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.cli.console import progress, say, warn
from mmkd.cli.eval_zero_shot import REPORT as ZERO_SHOT_REPORT
from mmkd.cli.models import TEACHER, Subject, describe
from mmkd.errors import DataError, MmkdError

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
            name: take_vectors(texts, vectors, left, source=str(path))
            for name, (path, texts, vectors) in read.items()
        }
    for name, one in taken.items():
        say(name, f"{one.source} · {len(one.words.all)} of {len(words.all)} words · {one.bare.shape[1]}-d")
    if missing:
        warn(f"{len(missing)} words have no vector and are left out: {some(missing, 12)}")
    return taken


def zero_shot_doubts(student: Subject, weights_hash: str) -> list[str]:
    """What the run's zero-shot report says against the student: at chance, or collapsed, on every set."""
    from mmkd.evaluation.zero_shot_report import SCHEMA, SCHEMA_VERSION
    from mmkd.parse import read_json

    file = None if student.run is None else student.run.folder / ZERO_SHOT_REPORT
    if file is None or not file.is_file():
        say("note", f"no zero-shot scores of {student.name} yet, so what it knows of images is not known")
        return []
    try:
        report = read_json(file)
        if (report.get("schema"), report.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
            return []
        names = [name for name, spec in report["models"].items() if spec["weights_hash"] == weights_hash]
        results = [(one["name"], one["models"][name]) for one in report["sets"] for name in names[:1]]
        at_chance = [result["at_chance"] or result["collapsed"] for _, result in results]
    except (MmkdError, KeyError, TypeError, AttributeError) as error:
        warn(f"{file} cannot be read as a zero-shot report ({type(error).__name__}); it is left out")
        return []
    if not results or not all(at_chance):
        return []
    return [f"{student.name}: at chance on {', '.join(name for name, _ in results)} ({file})"]


def _names(files: Sequence[Path]) -> list[str]:
    if len(files) == 1:
        return [files[0].stem]
    if len(files) == 2:
        return [TEACHER, "student"]
    others = [path.stem for path in files[1:]]
    return [
        TEACHER,
        *(name if others.count(name) == 1 else f"{name} ({i + 2})" for i, name in enumerate(others)),
    ]


def _read_npz(path: Path) -> "tuple[list[str], ArrayLike]":
    from mmkd.cache.vector_files import npz_matrix, open_npz

    arrays = open_npz(path)
    texts = next((arrays[name] for name in WORD_ARRAYS if name in arrays), None)
    name = next((name for name in VECTOR_ARRAYS if name in arrays), None)
    if texts is None or name is None or texts.ndim != 1 or texts.dtype.kind != "U":
        raise DataError(
            f"{path} has the arrays {', '.join(arrays) or '(none)'}; expected 'words', texts of shape (n,), and "
            "'vectors', floats of shape (n, width), as numpy.savez(FILE, words=..., vectors=...) writes them"
        )
    matrix = npz_matrix(path, name, arrays[name])
    if matrix.rows != len(texts):
        raise DataError(
            f"{path} has {len(texts)} words and {matrix.rows} vectors; expected one vector a word"
        )
    return [str(text) for text in texts], matrix.read()
