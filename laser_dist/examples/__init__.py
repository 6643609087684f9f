"""From a dataset's files to the batches that a worker learns from."""
