"""Recipes, launch files, templates and word lists, found wherever the package is installed."""

from pathlib import Path

FOLDER = Path(__file__).parent
