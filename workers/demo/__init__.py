"""The demo: real customers and purchases through the whole fleet, on one machine."""
