"""Embed once, train many heads: a feature-cache pipeline for transfer learning.

Importing this package imports no torch and no DVC; each sub-package brings what it needs.
"""

__version__ = "0.1.0"
