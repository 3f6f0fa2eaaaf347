"""The exact solution of the two-body problem, to compare integrators with. Written with numpy alone."""

import math

import numpy as np


def eccentric_anomaly(mean_anomaly: float, eccentricity: float) -> float:
    """Solve Kepler's equation M = E - e sin E by Newton's method."""
    anomaly = math.copysign(math.pi, mean_anomaly) if eccentricity > 0.8 else mean_anomaly
    for _ in range(100):
        error = anomaly - eccentricity * math.sin(anomaly) - mean_anomaly
        anomaly -= error / (1 - eccentricity * math.cos(anomaly))
        if abs(error) < 1e-15:
            break
    return anomaly


def relative_orbit(
    time: float, semi_major_axis: float, eccentricity: float, total_mass: float
) -> tuple[np.ndarray, np.ndarray]:
    """Separation and relative velocity (2,) at ``time`` after a pericentre on the x axis, G = 1."""
    motion = math.sqrt(total_mass / semi_major_axis**3)
    anomaly = eccentric_anomaly(math.remainder(motion * time, 2 * math.pi), eccentricity)
    minor = semi_major_axis * math.sqrt(1 - eccentricity**2)
    rate = motion / (1 - eccentricity * math.cos(anomaly))
    position = [semi_major_axis * (math.cos(anomaly) - eccentricity), minor * math.sin(anomaly)]
    velocity = [-semi_major_axis * rate * math.sin(anomaly), minor * rate * math.cos(anomaly)]
    return np.array(position), np.array(velocity)
