"""Which images a probe learns from and is judged on."""

from mmkd.data import LabelledDataset, open_labelled
from mmkd.errors import DataError
from mmkd.evaluation.builtin_sets import builtin_sets
from mmkd.evaluation.probe import ProbeTask


def open_probe(test: str, train: str | None = None) -> ProbeTask:
    """Open two labelled sets, whose labels are matched by their classes' names.

    Args:
        test: images to be judged on: a built-in name, or labelled data of one's own.
        train: images to learn from; ``None``: the train split of ``test``.

    Raises:
        DataError: a set cannot be opened, or the two have other classes.
    """
    judged, learnt = _open(test, None), _open(train or test, "train")
    names, learnt_names = _names(test, judged), _names(train or test, learnt)
    here, there = (judged.source.spec, judged.source.split), (learnt.source.spec, learnt.source.split)
    if here == there:
        raise DataError(
            f"{test} has one split, {here[1]!r}; name other images to learn from with --train-data"
        )
    if not names or not learnt_names:
        raise DataError(
            f"{test if not names else train or test} has bare numbers for labels; expected class names "
            "(a ClassLabel column, or text), by which the labels of both sets are matched"
        )
    numbers = {name: number for number, name in enumerate(names)}
    strange = sorted(set(learnt_names) ^ set(numbers))
    if strange:
        raise DataError(
            f"{test} and {train or test} differ in their classes: {', '.join(map(repr, strange[:5]))} in one alone; "
            "expected the same names in both"
        )
    return ProbeTask(
        judged.name,
        learnt,
        judged,
        names,
        tuple(numbers[name] for name in learnt_names),
        f"{there[0]} · {there[1]} · {len(learnt):,} images to learn from · {here[0]} · {here[1]} · "
        f"{len(judged):,} to be judged on",
    )


def _open(spec: str, split: str | None) -> LabelledDataset:
    builtin = builtin_sets().get(spec)
    if builtin is None:
        # A file has the split `train` alone, whatever it holds; a set on the hub or a folder may have several.
        return open_labelled(spec, split)
    files = builtin.files if split in (None, builtin.split) else None
    return open_labelled(
        builtin.data, split or builtin.split, builtin.image_column, builtin.label_column, files=files
    )


def _names(spec: str, data: LabelledDataset) -> tuple[str, ...]:
    """The data's own class names, or those of the built-in set whose labels are numbers."""
    builtin = builtin_sets().get(spec)
    return builtin.class_names if builtin and builtin.numbered and not data.class_names else data.class_names
