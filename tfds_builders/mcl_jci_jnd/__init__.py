"""MCL-JCI (Jin et al. 2016) as frame pairs, and anything laid out like it."""
