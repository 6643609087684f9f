"""Prediction: load an exported or trained model and predict the JND levels of clips."""
