"""Train one source model on its source domain."""

from embedpipe.steps.source import train_source_model
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(train_source_model, "model")
