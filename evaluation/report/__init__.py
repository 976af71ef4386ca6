"""A run as one HTML page that needs nothing else.

Its figures as files are made by ``figures``, apart from these names: it needs matplotlib.
"""

from samtune.evaluation.report.facts import CaseVolume, RunFacts
from samtune.evaluation.report.page import MAX_BYTES, write_report
from samtune.evaluation.report.scores import CaseScore, parse_scores, pick_cases

__all__ = [
    "MAX_BYTES",
    "CaseScore",
    "CaseVolume",
    "RunFacts",
    "parse_scores",
    "pick_cases",
    "write_report",
]
