"""Gives the memory of long texts back to the system, where the C library would keep it for later."""

import ctypes

LONG_BYTES = 128 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def give_back_freed() -> bool:
    """Holds glibc to its first word, that what is longer than 128 KiB is mapped on its own and unmapped when freed.

    After the first such text has been freed glibc takes up to 32 MiB from its heap instead, which a few short texts
    between them then keep from ever shrinking. False where there is no glibc, which needs no such word.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LONG_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, LONG_BYTES))
