"""A process of a fleet under test: `python -m workers.chaos.process [options] FOLDER COMMAND …`.

Sets the hooks that nothing else sets, then becomes what the command says: `fleet` (the supervisor of
the rest, on servers that the environment names), or any command of `dripfleet`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workers.chaos import points

POOLS = ("sequence", "send", "upkeep", "churn")
"""What a run starts; churn for its prefork children."""


def main() -> int:
    """Set the hooks and run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="workers.chaos.process", description=__doc__)
    parser.add_argument("folder", type=Path, help="of armed crash points")
    parser.add_argument("--guard-off", help="of guards.OFF")
    parser.add_argument(
        "--skew", type=float, default=0.0, help="seconds that the wall clock is off"
    )
    parser.add_argument("--version", type=int, help="of the doorbells that this process knows")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    points.listen(args.folder)
    if args.version is not None:
        from tasks import names

        names.VERSION = args.version  # type: ignore[misc]
    if args.skew:
        _skew(args.skew)
    if args.guard_off:
        from workers.chaos.guards import OFF

        OFF[args.guard_off]()
    if args.command[0] == "fleet":
        return _fleet(sys.argv[1 : len(sys.argv) - len(args.command)])
    from workers.cli import main as dripfleet

    return dripfleet(args.command)


def _skew(seconds: float) -> None:
    """Set this process's wall clock off; what is monotonic stays as it is."""
    import datetime as dt

    import time_machine

    there = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    time_machine.travel(there, tick=True).start()


def _fleet(hooks: list[str]) -> int:
    from workers.cli.render import say
    from workers.embedded.stack import Stack
    from workers.supervisor import Fleet

    with Stack(say=say, loopback_only=True) as stack:
        program = ("-m", "workers.chaos.process", *hooks)
        fleet = Fleet(stack, pools=POOLS, flower=False, say=say, program=program)
        with fleet.signals():
            try:
                fleet.start()
                fleet.run()
            finally:
                fleet.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
