"""Simulated viewers and the footage they judge: the science behind the synthetic datasets."""
