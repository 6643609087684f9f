"""The commands of `laser-jnd`, one thin file each."""
