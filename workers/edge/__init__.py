"""The HTTP edge: what readers and other systems reach of the fleet. `dripfleet api` starts it.

Stateless: any number of processes on one Postgres, each answers for all. It calls `moves` and the
stores, as the command line does, and writes to Postgres alone. Nobody imports FastAPI or uvicorn but
this package, and it only when it runs (extra `edge`).

=============  ==========================================================================
`settings`     what it needs to know
`run`          the process: a server, and its end
`app`          routes and what stands before all of them
`shield`       headers, a bound for bodies, the access log
`problem`      errors as `application/problem+json`
`pages`        pages for people, in their language
`desk`         what the desks below share: whose token it is, a page in the right language
`leaving`      `/u/…`: one click, and the page to choose
`confirming`   `/confirm/…`: the page that asks for a confirmation
`tracking`     `/c/…` and `/o/…`: clicks and opens
`hits`         the same, written in groups
`callers`      who may write through `/v1`, and how often
`answers`      a request that comes twice is answered once
`api`          `/v1/…`: events, subscribers, enrollments
`mails`        `/v1/messages`: one transactional mail
`lists`        `GET /v1/…`: what there is, in pages
`webhooks`     `/hooks/…`: bounces and complaints that providers tell (`providers/`)
`reports`      the same, acted upon in groups
=============  ==========================================================================
"""
