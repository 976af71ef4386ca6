"""The benchmark's pairs and methods: small, for agreement only."""

import warnings

import pytest

from samtune.benchmarks.bench_metrics import EQUAL, GOALS, METHODS, assert_equal, best_times
from samtune.benchmarks.metric_pairs import make_pairs

NEEDED = [name for name, (package, _) in METHODS.items() if package is None]


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(quick=True, label_file=None)


def test_methods_agree_on_every_pair(pairs):
    assert {"samtune", "surface-distance", "MONAI"} <= set(NEEDED)
    assert all(pair.name in GOALS for pair in pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old SciPy names, MONAI's own deprecations
        for pair in pairs:
            assert_equal(pair, NEEDED)
        assert min(best_times(pairs[0], NEEDED, 1).values()) > 0


def test_a_method_with_other_numbers_is_not_timed(pairs, monkeypatch):
    monkeypatch.setitem(
        METHODS, EQUAL[0], (None, lambda pair: [(0.0, 0.0, 0.0)] * len(pair.classes))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="liver: samtune gives"):
            assert_equal(pairs[0], NEEDED)
