"""Earlier names of `laser_dist.storage`; to be removed with their last users."""

from laser_dist.storage.local_copies import local_models
from laser_dist.storage.local_copies import naming_locations as named_by_place

__all__ = ["local_models", "named_by_place"]
