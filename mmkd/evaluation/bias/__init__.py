"""Bias of text and image towers: published measures on plain arrays, and the probe that ``mmkd eval bias`` runs.

The measures need no model and no word list: sets of vectors are arrays (n, D), rankings are integers. Each docstring
gives shapes, sign, convention and source.
"""

from mmkd.evaluation.bias.association import (
    Weat,
    cosines,
    direct_bias,
    ect,
    gender_direction,
    mac,
    rnd,
    same,
    seat,
    weat,
)
from mmkd.evaluation.bias.classifier import rnsb
from mmkd.evaluation.bias.levels import ml_eat
from mmkd.evaluation.bias.ranking import max_skew, min_skew, ndkl, skews

__all__ = [
    "Weat",
    "cosines",
    "direct_bias",
    "ect",
    "gender_direction",
    "mac",
    "max_skew",
    "min_skew",
    "ml_eat",
    "ndkl",
    "rnd",
    "rnsb",
    "same",
    "seat",
    "skews",
    "weat",
]
