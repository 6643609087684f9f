"""VideoSet (Wang et al. 2017) as frame pairs, and any dataset with its layout."""
