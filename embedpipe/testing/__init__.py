"""Checks that a user's own parts can be held to, in a test of theirs: `check_backbone`, `check_source`."""

from embedpipe.testing.backbones import ContractError, check_backbone, check_opened
from embedpipe.testing.sources import check_source

__all__ = ["ContractError", "check_backbone", "check_opened", "check_source"]
