"""The C library's memory allocator, told to keep what it has."""

from __future__ import annotations

import ctypes
import sys

# Names and numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Makes glibc reuse large freed blocks instead of handing each back to the system.

    A network's activations are large, short-lived blocks: by default every one is mapped and cleared anew by the kernel. Measured on
    EfficientNet-Lite0, one thread: 17 images/s before, 34 after. Elsewhere than on glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(_M_TOP_PAD, 64 << 20)
