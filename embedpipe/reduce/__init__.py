"""Reductions: from a feature map, or a sequence of tokens, to what is stored of it.

Knows nothing of models or of stores. Names can be checked without importing torch.
"""

from embedpipe.reduce.registry import Layout, Reduction, get_reduction

__all__ = ["Layout", "Reduction", "get_reduction"]
