"""From a trained run and a clip to the clip's three levels."""
