"""Use of what was trained: predictions for new inputs, one self-contained artefact, and a classifier from it.

Reads heads, stores and params of a project, or a bundle alone. Trains nothing.
"""
