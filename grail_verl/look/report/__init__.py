"""The report: what became of a run's tokens, as one page to open in a browser. `python -m grail_verl.look.report DIR`.

Reads the records that training or attribution leaves (records.py). records → statistics → figures → page.
"""
