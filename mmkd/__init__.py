"""mmkd: make a CLIP smaller."""
