"""Churn: scores of who lapses; its work comes with its own release."""
