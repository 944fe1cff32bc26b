"""Webhooks: other systems are told what happened, signed, until they have heard it.

What happened is written down by triggers in the transaction in which it did (migration 0022), one row
for each endpoint that asked; `webhooks.deliver` takes what is due. At least once, in no order: whoever
listens tells a second one by `webhook-id`, and the order by `timestamp`.

==========  ===============================================================
`kinds`     what an endpoint may ask to be told of
`engine`    signatures, what an answer means, when to try again
`target`    which addresses may be called: never the inside of a network
`wire`      one request to the address that was looked at
`book`      endpoints: added, paused, turned, removed
`store`     what is due, how it went, dead letters
`post`      endpoints side by side, for as long as a doorbell works
==========  ===============================================================
"""
