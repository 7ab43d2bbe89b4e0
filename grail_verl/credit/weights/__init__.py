"""Weights, one rule a file: standardised (GRAIL's), reshaped (OAR-G's), proportional, top_share. base.py is the
interface."""

from grail_verl.credit.weights import proportional, reshaped, standardised, top_share  # noqa: F401  they register
from grail_verl.credit.weights.base import WEIGHTS, Weights, register_weights

__all__ = ["WEIGHTS", "Weights", "register_weights"]
