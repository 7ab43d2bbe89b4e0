"""Text of a model's, a data set's or a stranger's on its way to a terminal, a log or another process."""


def told(error: BaseException) -> str:
    """An exception's kind and text, as every encoding takes it."""
    try:
        text = str(error)
    except Exception as second:
        text = f"no text, its str raises {type(second).__name__}"
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()
