"""GRAIL for verl: token-level credit from the gradient of a response's own answer.

`import grail_verl` needs neither verl nor torch; verl finds the plugin through its entry point (plugin.py).
"""

from grail_verl.config import GrailConfig

__all__ = ["GrailConfig"]
