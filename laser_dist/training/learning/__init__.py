"""The step and the loop, for any number of devices and workers."""
