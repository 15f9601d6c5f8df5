"""Transfer learning with feature extraction: a frozen source network, a mapping, and a target network from a place on.

`TLFE` is the way in. Layers of the source are extracted once, into a feature store; a mapping takes them to the shape
that the target has at a place, and both are trained by the project's trainer.
"""

from embedpipe.tlfe.tlfe import TLFE

__all__ = ["TLFE"]
