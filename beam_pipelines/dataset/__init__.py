"""From matched sources to the files of a dataset."""
