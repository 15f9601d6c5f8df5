"""How arms are judged: the predictions table, metrics, bootstrap intervals, and the options that steer them.

Knows nothing of heads, features or torch: whatever writes predictions can be judged.
"""
