"""Compare every arm on validation."""

from embedpipe.steps.compare import compare_arms
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(compare_arms)
