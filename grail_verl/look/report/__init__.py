"""The report: what became of a run's tokens, as one page to open in a browser. `grail-verl report DIR`.

Reads the records that training or attribution leaves (records.py). records → statistics → figures → page.
"""
