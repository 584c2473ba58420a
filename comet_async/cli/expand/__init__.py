"""``comet-async expand``: options, the run, the plan, and what is shown of them."""
