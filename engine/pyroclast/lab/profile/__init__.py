"""Where the time of a generation goes, call by call and thread by thread."""
