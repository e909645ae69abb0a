"""What the shop sells, as far as its database and its customers have to agree on it."""

from __future__ import annotations

from typing import Final

PRODUCTS: Final = 400
CATEGORIES: Final = ("new", "kitchen", "garden", "office", "travel", "music", "books", "toys")
NOUNS: Final = (
    "lamp",
    "chair",
    "kettle",
    "backpack",
    "notebook",
    "guitar",
    "spade",
    "puzzle",
    "blanket",
    "radio",
    "clock",
    "tent",
)
