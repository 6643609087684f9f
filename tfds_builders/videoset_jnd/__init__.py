"""VideoSet (Wang et al. 2017) as frame pairs, and anything laid out like it."""
