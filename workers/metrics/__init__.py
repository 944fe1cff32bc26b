"""What Prometheus may ask: `/metrics` of each worker process, and one for the whole fleet.

`families` names every metric, `process` counts in a worker, `export` serves that, `fleet` reads
Postgres and Redis. The same names stand, for people, in `deploy/prometheus/METRICS.md`.
"""
