"""The feature store: working groups that grow by samples and taps, and published stores that anyone reads.

Knows nothing of torch, of DVC, or of what computed a feature.
"""

from embedpipe.store.group import Group, GroupInfo, find_groups, nearest_group, open_group
from embedpipe.store.plan import Block, GrowthPlan, Segment, plan_growth
from embedpipe.store.publishing import check_same_filesystem, publish
from embedpipe.store.reader import FeatureStore
from embedpipe.store.verification import Damage, VerifyReport, verify

__all__ = [
    "Block",
    "Damage",
    "FeatureStore",
    "Group",
    "GroupInfo",
    "GrowthPlan",
    "Segment",
    "VerifyReport",
    "check_same_filesystem",
    "find_groups",
    "nearest_group",
    "open_group",
    "plan_growth",
    "publish",
    "verify",
]
