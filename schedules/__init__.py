"""When: sequence definitions, their loader, and local time; strings and dates only."""
