"""Write the report."""

from embedpipe.steps.report import write_report
from embedpipe.terminal import run_stage

if __name__ == "__main__":
    run_stage(write_report)
