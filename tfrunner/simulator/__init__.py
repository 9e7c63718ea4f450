"""The dispatcher in virtual time: the same core and policies as in production, no process, no wait.

Arrivals (`arrivals`, `traces`) ask a core for batches on simulated workers (`world`) that run
simulated models (`models`); `reference` holds the policies of other systems, `theory` what
queueing theory says, `search` the best fixed setting and the number of workers, `results`,
`tables` and `plots` what came out. Nothing here is used when requests are served.
"""
