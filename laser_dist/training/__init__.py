"""Training: settings, one step and one loop for any number of devices and workers."""
