"""Where samples come from: each source lists its samples and reads one at a time."""
