"""Packed trials: each is a thin client of an actor that trains many at once (`trainer: packed`)."""
