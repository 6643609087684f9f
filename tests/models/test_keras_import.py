import os
import subprocess
import sys

import pytest

CODE = """
import sys
from laser_dist.keras_import import import_keras
import_keras()
import keras
loaded = sys.modules.keys()
print(keras.backend.backend(), *sorted({"IPython", "matplotlib", "pandas", "sklearn"} & loaded))
import matplotlib, pandas, sklearn
print(keras.ops.add(1, 2).shape, sklearn.__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_keras_is_imported_without_packages_that_can_be_imported_afterwards(backend):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [backend, "() sklearn"], done.stderr
