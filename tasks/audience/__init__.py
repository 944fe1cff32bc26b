"""Who may be written to: addresses, imports, stops, and what subscribers did."""
