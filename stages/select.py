"""Select tap, backbone, family and hyperparameters jointly."""

from embedpipe.steps.select import select_arms
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(select_arms)
