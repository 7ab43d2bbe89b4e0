"""Scores, one a file: saliency (GRAIL's), oar_g, surprise, entropy. base.py is the interface."""

from grail_verl.credit.scores import entropy, oar_g, saliency, surprise  # noqa: F401  they register
from grail_verl.credit.scores.base import SCORES, Score, register_score

__all__ = ["SCORES", "Score", "register_score"]
