"""Ingest one data set: its manifest and its labels."""

from embedpipe.steps.ingest import ingest_dataset
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(ingest_dataset, "dataset")
