"""The tools of others, set up as their manuals advise for stars sampled by two pixels."""
