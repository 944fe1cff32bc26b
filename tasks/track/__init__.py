"""Clicks and opens: who came by a link, a person or a machine, and the events that both become."""
