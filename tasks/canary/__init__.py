"""The canary: each pool, asked through its own queue, writes that it lives."""
