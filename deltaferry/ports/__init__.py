"""The few Protocols between activities and adapters.

All calls block and are made from activity threads; every implementation is safe to call from several threads.
Every failure leaves as `DeltaferryError`; no implementation retries for longer than about half a minute by itself
(longer waits are Temporal's). `beat` is called at least every few seconds during a wait: it heartbeats, and what it
raises (a cancellation) ends the wait and is passed on.
"""
