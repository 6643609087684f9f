import logging
import os
from unittest.mock import patch

import pytest

from laser_dist.commands.logs import PACKAGES


@pytest.fixture(autouse=True)
def restored_process():
    """Undo what a command that runs in this process sets: the environment and the logging."""
    loggers = [logging.getLogger(name) for name in (None, *PACKAGES)]
    levels, handlers = [each.level for each in loggers], loggers[0].handlers[:]
    with patch.dict(os.environ):
        yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
