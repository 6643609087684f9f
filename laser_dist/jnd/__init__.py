"""Judged video: label files, satisfied user ratio, splits and simulated viewers.

NumPy only: neither TensorFlow, Beam nor Ray, so a Beam worker that needs labels starts fast.
"""
