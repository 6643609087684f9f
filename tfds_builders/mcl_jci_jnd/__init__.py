"""MCL-JCI (Jin et al. 2016) as frame pairs, and any dataset with its layout."""
