"""Tasks that take memory."""


def and_free(size: int = 200 * 2**20) -> int:
    held = bytearray(size)
    for place in range(0, size, 4096):
        held[place] = 1
    return len(held)


def burn(seconds: float) -> float:
    """Use so much CPU."""
    import time

    began = time.process_time()
    while time.process_time() - began < seconds:
        pass
    return seconds
