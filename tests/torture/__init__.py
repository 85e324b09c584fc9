"""The torture campaign: hostile files, requests and circumstances, thrown at Pyroclast at random.

`make torture` or `python -m torture` runs it; campaign.py says what a kind of torture is."""
