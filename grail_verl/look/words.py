"""Numbers in sentences, for the report and the terminal."""


def counted(count: int, noun: str) -> str:
    """As in 1 response, 2,000 responses."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
