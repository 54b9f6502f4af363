"""Mined negatives: each row's nearest other captions, kept where they are hard and not false."""

from mmkd.mining.mine import Neighbours, mine_embeddings, mine_neighbours
from mmkd.mining.plan import METHODS, SearchOptions, choose_method, parse_memory
from mmkd.mining.rules import NegativeRules
from mmkd.mining.sharing import Share
from mmkd.mining.spaces import ArraySpace, Space, StoreSpace

__all__ = [
    "METHODS",
    "ArraySpace",
    "NegativeRules",
    "Neighbours",
    "SearchOptions",
    "Share",
    "Space",
    "StoreSpace",
    "choose_method",
    "mine_embeddings",
    "mine_neighbours",
    "parse_memory",
]
