"""Copies of features in other formats, each with the ids of its rows, and a view that h5py opens.

Reads stores through `features`; knows nothing of params.yaml or of the command line.
"""
