"""Train the heads of one task."""

from embedpipe.steps.train import train_heads
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(train_heads, "task")
