"""Rank taps by what training samples alone say of them, before any head is trained.

Knows nothing of stores, files or splits: it is given rows of features and their targets.
"""

SCREENS = ("knn", "ridge", "logme")
"""Names of the screens, in the order in which they are shown."""
