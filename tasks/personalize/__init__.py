"""Personalize: words for each person; its work comes with its own release."""
