"""Files of requests: a JSON object a line in, a JSON object an answer out, resumable."""
