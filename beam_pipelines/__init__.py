"""Apache Beam pipelines: labeled clips or footage to datasets, and clips to predictions."""
