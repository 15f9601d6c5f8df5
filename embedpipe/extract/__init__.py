"""Run a frozen backbone over data sets once and keep its features: options, probe, plan, pipeline, run."""
