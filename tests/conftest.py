"""What all tests share."""

from hypothesis import settings

# Machines that run tests are shared and slow at times: an example's time says nothing here.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
