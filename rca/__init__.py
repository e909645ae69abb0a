"""rca: which service most likely caused this incident, why, and how sure."""

from __future__ import annotations

__version__ = "0.1.0"
