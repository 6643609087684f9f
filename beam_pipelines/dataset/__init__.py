"""Pipeline from matched sources to the files of a dataset."""
