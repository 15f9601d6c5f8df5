"""Arms that adapt the source model itself, on the same samples and in the same tables as the heads.

`task.transfer_task` trains the arms of one task; `live.LiveModel` is a backbone with a head behind it. Options import
no torch. Knows nothing of params.yaml, DVC or the test's targets.
"""
