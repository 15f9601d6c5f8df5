"""Adapt source models to one task."""

from embedpipe.steps.transfer import transfer_arms
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(transfer_arms, "task")
