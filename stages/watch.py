"""Note which of the files that params.yaml names have changed."""

from embedpipe.steps.watch import watch_files
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(watch_files)
