"""From a source to its manifest and labels, and from labels to the targets of a task. Knows no torch."""
