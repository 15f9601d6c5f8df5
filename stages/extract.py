"""Run one backbone over every sample once."""

from embedpipe.steps.extract import extract_features
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(extract_features, "backbone")
