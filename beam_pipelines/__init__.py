"""Apache Beam pipelines: from files to judged clips, frame pairs and quality tables."""
