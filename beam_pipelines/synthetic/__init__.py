"""From photographs and videos to small judged datasets, in the layouts of the real ones."""
