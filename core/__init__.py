"""Physics, features, network, two-phase training and evaluation of a learned time step. Knows no Ray."""
