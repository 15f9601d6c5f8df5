"""The line that says what the log is, is no record."""

import json

from embedpipe.compare.test_log import num_openings, read_log


def test_a_log_with_its_heading_alone_counts_no_opening(tmp_path):
    log = tmp_path / "test_log.jsonl"
    log.write_text(json.dumps({"about": "what this is"}) + "\n")
    assert read_log(log) == [] and num_openings(read_log(log)) == 0
