from collections.abc import Callable


def disagreements(tell: Callable[[str], None]) -> int:
    return 0
