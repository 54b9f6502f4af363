"""mmkd: make a CLIP smaller.

Cache a teacher once, distil half-depth students against the cache, judge them honestly. The names below load
what they need when they are first used, so that ``import mmkd`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmkd import evaluate as evaluate
    from mmkd.cache.store import open_cache as open_cache
    from mmkd.embeddings import Embeddings as Embeddings
    from mmkd.embeddings import TeacherSpec as TeacherSpec
    from mmkd.embeddings import TeacherStore as TeacherStore
    from mmkd.encoders import PairEncoder as PairEncoder
    from mmkd.encoders import load_encoder as load_encoder
    from mmkd.errors import MmkdError as MmkdError
    from mmkd.objective import Objective as Objective
    from mmkd.students import halve as halve

    __version__: str

# Where each name lives; a name without a colon is a module.
_EXPORTS = {
    "Embeddings": "mmkd.embeddings:Embeddings",
    "MmkdError": "mmkd.errors:MmkdError",
    "Objective": "mmkd.objective:Objective",
    "PairEncoder": "mmkd.encoders:PairEncoder",
    "TeacherSpec": "mmkd.embeddings:TeacherSpec",
    "TeacherStore": "mmkd.embeddings:TeacherStore",
    "evaluate": "mmkd.evaluate",
    "halve": "mmkd.students:halve",
    "load_encoder": "mmkd.encoders:load_encoder",
    # The one arrow from the core to its adapter: the package's front door, never followed from inside.
    "open_cache": "mmkd.cache.store:open_cache",
}

__all__ = [
    "Embeddings",
    "MmkdError",
    "Objective",
    "PairEncoder",
    "TeacherSpec",
    "TeacherStore",
    "__version__",
    "evaluate",
    "halve",
    "load_encoder",
    "open_cache",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("mmkd")
    elif name in _EXPORTS:
        module, _, attribute = _EXPORTS[name].partition(":")
        value = import_module(module)
        if attribute:
            value = getattr(value, attribute)
    else:
        raise AttributeError(f"module 'mmkd' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
