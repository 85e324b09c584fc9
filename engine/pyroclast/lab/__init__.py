"""The kernel lab: checks, times, tunes and explains every variant of every op.

check/ compares a variant with the reference, speed/ times many of them in child processes, tune/
chooses the fastest, profile/ shows where a generation's time went, report/ draws result files,
scaffold/ writes the file of a new variant, peers/ times other engines on the same weights, serving/
puts servers under load, batch/ answers files of requests, evaluate/ judges the
answers to tasks, and gpu/ measures a machine with a GPU.
"""
