"""A training whose images are stored in the cache: the pairs are then read for their captions alone."""

from typing import TYPE_CHECKING, Any

from mmkd.cache.origin import SIDES
from mmkd.cli.console import say
from mmkd.errors import StaleCacheError
from mmkd.recipe import Recipe

if TYPE_CHECKING:
    from mmkd.cache.store import CacheStore


def reads_pixels(store: "CacheStore | None", recipe: Recipe) -> bool:
    """Whether a training takes its images from the cache; views of images are made from the images themselves."""
    return store is not None and store.pixels is not None and recipe.mismatched is None


def sides_to_read(store: "CacheStore", recipe: Recipe, image_processor: Any) -> tuple[str, ...]:
    """What a training reads of the pairs: no images where the cache holds them as the student takes them.

    Raises:
        StaleCacheError: the stored images are of another size.
    """
    from mmkd.pixels import pixel_side

    if not reads_pixels(store, recipe):
        return SIDES
    if (side := pixel_side(image_processor)) != store.pixels:
        raise StaleCacheError(
            f"{store.folder} holds pixels of {store.pixels} a side, but the student takes {side}; make it again with "
            "`mmkd cache-teacher --store-pixels --out NEW`"
        )
    return ("text",)


def describe_pixels(store: "CacheStore", recipe: Recipe) -> None:
    """Say whether stored pixels are used."""
    if store.pixels:
        used = reads_pixels(store, recipe)
        why = "no image is decoded" if used else "unused, since views of the images are shown"
        say("pixels", f"{store.manifest.settings.describe_pixels()} in the cache: {why}")
