"""Apache Beam pipelines: label files and clips to datasets, footage to synthetic datasets."""
