"""Errors meant for the person at the terminal: what was found, what was expected, what to do."""


class MmkdError(Exception):
    """Base of all of mmkd's own errors; the command line prints its message in one line and exits 1."""


class ConfigError(MmkdError):
    """A setting that cannot be used."""


class DataError(MmkdError):
    """A data set that cannot be opened, or lacks what was asked of it."""


class ModelError(MmkdError):
    """A model that cannot be loaded, or is not a CLIP."""


class CacheError(MmkdError):
    """A cache that cannot be read or written."""


class StaleCacheError(CacheError):
    """A cache that was made by another teacher, or from other data, than this run asks for."""


class TrainingError(MmkdError):
    """A training that cannot start or cannot go on."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
