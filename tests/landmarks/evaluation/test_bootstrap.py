import numpy as np

from mmtoolkit.landmarks.evaluation.bootstrap import paired_bootstrap


def test_the_bootstrap_separates_a_difference_from_noise():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.01, 0.05, 200)
    noisy, worse = first + rng.normal(0, 0.001, 200), first + 0.002 + rng.normal(0, 0.001, 200)
    worse[3] = np.nan
    same, _ = paired_bootstrap(first, noisy)
    assert same.low < 0 < same.high
    assert same.p > 0.01
    nme, auc = paired_bootstrap(first, worse)
    assert 0.0015 < nme.low < nme.high < 0.0025
    assert auc.high < 0
    assert nme.p == 0
    assert paired_bootstrap(first, worse) == paired_bootstrap(first, worse)
