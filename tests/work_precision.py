"""Short work-precision curves: the shipped ones take minutes to measure."""

from dataclasses import replace

import numpy as np
import pytest

from core.work_precision import BASELINES

#: Constants of the classical criteria; tolerances of the oracle.
SHORT_CURVE = np.geomspace(0.08, 0.01, 9)
SHORT_TOLERANCES = np.geomspace(3e-3, 1e-5, 6)


def short_baselines(patch: pytest.MonkeyPatch) -> None:
    """Measure few points of each baseline."""
    for name, baseline in BASELINES.items():
        constants = SHORT_CURVE
        if name == "oracle":
            constants = SHORT_TOLERANCES
        if name == "fixed":
            constants = SHORT_CURVE / 20
        patch.setitem(BASELINES, name, replace(baseline, constants=constants, finest=0))
