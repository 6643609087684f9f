"""Evaluation of trained predictors on held-out clips: metrics, baselines and the HTML report."""
