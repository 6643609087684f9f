"""Settings of all tests: no GPU unless asked for, and one Hypothesis profile per purpose."""

import os
import re

from hypothesis import settings

# TensorFlow takes nearly all memory of each GPU it sees, in every pytest worker. It looks at this
# variable when it first asks for devices, so `pytest_configure` can still give the GPUs back.
_VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# No deadline: test machines are shared, so the time of one example says nothing.
settings.register_profile("random", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "random")
)


def pytest_configure(config):
    if not re.search(r"(?<!not )\bgpu\b", config.getoption("markexpr")):
        return
    if _VISIBLE_GPUS is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = _VISIBLE_GPUS
