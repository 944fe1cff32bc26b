"""Every move of a message and an enrollment, as SQL: the only writer of `message.state`.

Lock order everywhere: subscriber, enrollment, message, attempt, each in id order. Stamps and
comparisons are Postgres's `clock_timestamp()`, never a worker's clock. A move that finds no row was
made by somebody else already; its caller drops it.
"""
