"""Write the targets of one task."""

from embedpipe.steps.targets import make_task_targets
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(make_task_targets, "task")
