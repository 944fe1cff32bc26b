"""The fleet under random faults, judged by a ledger outside of it: `dripfleet chaos`.

`world` holds the servers and the fleet, `load` the mail, `catalogue` the faults, `run` one run from
its plan to its verdict. A process of this fleet is started by `process`, which alone sets the hooks.
"""
