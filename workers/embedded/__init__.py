"""The servers that come with the house, for when no URL of one is given."""
