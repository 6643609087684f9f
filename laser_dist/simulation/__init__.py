"""The science behind the synthetic datasets: a virtual camera, visibility and simulated viewers."""

MARKER_NAME = "SIMULATED.json"
"""File that marks a dataset folder whose labels come from simulated viewers."""
