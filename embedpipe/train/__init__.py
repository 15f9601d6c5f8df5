"""Train every head of a task on cached features, at every k_shot, and write what each predicts.

Opens the targets of training and validation samples alone. Test samples are predicted, never scored.
"""
