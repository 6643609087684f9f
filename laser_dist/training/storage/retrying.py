"""Earlier names of `laser_dist.storage`; to be removed with their last users."""

from laser_dist.storage.retries import first_line

__all__ = ["first_line"]
