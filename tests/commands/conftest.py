import os
from unittest.mock import patch

import pytest


@pytest.fixture(autouse=True)
def environment():
    """Undo what a command that runs in this process sets for the libraries."""
    with patch.dict(os.environ):
        yield
