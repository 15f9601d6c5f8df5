"""Samples and targets as immutable tables, and how samples are split. Knows nothing of where samples lie."""
