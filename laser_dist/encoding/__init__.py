"""Encode clips at their JND levels: plan the quantizers, encode, verify, hand over to other tools.

`plan` turns a prediction into a quantizer for each scene.
"""
