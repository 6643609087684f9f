"""Pipeline from photographs and videos to small labeled datasets in real layouts."""
