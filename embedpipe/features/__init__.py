"""Features as heads want them: one matrix a tap, rows in the order of the manifest, what is missing masked.

Reads published stores (`data/features/<backbone>`); knows nothing of tasks, heads or torch.
"""
