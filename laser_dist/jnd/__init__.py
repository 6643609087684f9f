"""JND labels: label files, the satisfied-user ratio, and splits into train, validation and test.

NumPy and SciPy only: neither TensorFlow, Beam nor Ray, so a Beam worker that needs labels starts
fast.
"""
