"""How well a trained predictor names the levels of clips it never saw, and a page that shows it."""
