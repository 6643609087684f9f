"""Where datasets are read from, and where a run is kept."""
