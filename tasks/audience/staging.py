"""What both imports share on the way from a file into a temporary table and on."""

from __future__ import annotations

import json
from typing import Final

BY_INDEX: Final = """
    SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
           set_config('work_mem', '64MB', true)
"""
"""For the transaction of one chunk: look rows up by index, so that a chunk costs the same whatever
stands there already. Joined by hash, each chunk reads the whole table."""

BY_HASH: Final = "SELECT set_config('enable_hashjoin', 'on', true)"
"""Again, for a statement that joins the chunk with itself, where there is no index."""

encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""An object as JSON text; one encoder for all rows."""
