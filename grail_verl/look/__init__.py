"""What weights were given, for people to look at: records of a run, a report on them, and attribution after the fact.
Knows credit/."""
