"""Checks that a user's own parts can be held to, in a test of theirs: `check_backbone`."""

from embedpipe.testing.backbones import ContractError, check_backbone, check_opened

__all__ = ["ContractError", "check_backbone", "check_opened"]
