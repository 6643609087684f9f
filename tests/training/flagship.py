"""The flagship shape on CPUs: workers with several devices each.

TensorFlow gives each worker of `MultiWorkerMirroredStrategy` one CPU device, or all of its GPUs.
For tests, this replaces the private method of TensorFlow 2.21 that looks for a worker's devices.
All else is as with GPUs: one server per worker, and a replica on each device.
"""

import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

DEVICES = 2  # of each worker


def prepare_worker():
    """Let strategies of several workers use `DEVICES` logical CPU devices of this one."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * DEVICES,
    )

    def devices(_self, _resolver, worker):
        return tuple(f"{worker}/device:CPU:{index}" for index in range(DEVICES)), "CPU"

    CollectiveAllReduceExtended._initialize_local_devices = devices
