"""Keys: the blake2b-128 of what a sample is, equal for equal content.

Two samples with one key are duplicates: they are embedded once and never straddle a split.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

KEY_NBYTES = 16


def content_key(content: bytes) -> bytes:
    """Key of a file's bytes.

    Returns
    -------
    bytes, length 16
    """
    return hashlib.blake2b(content, digest_size=KEY_NBYTES).digest()


def array_key(array: npt.NDArray[np.generic]) -> bytes:
    """Key of an array: its dtype (with byte order), shape and C-order bytes.

    Returns
    -------
    bytes, length 16
    """
    hasher = hashlib.blake2b(digest_size=KEY_NBYTES)
    hasher.update(f"{array.dtype.str}{array.shape}".encode())
    hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.digest()


def text_key(text: str) -> bytes:
    """Key of a text: of its UTF-8 bytes.

    Returns
    -------
    bytes, length 16
    """
    return content_key(text.encode("utf-8"))


def version_key(*parts: str) -> bytes:
    """Key of what is not read: of where it lies and which version of it that is.

    Parameters
    ----------
    parts : str
        The first is an address that no other content has: etags and version columns repeat.

    Returns
    -------
    bytes, length 16
    """
    hasher = hashlib.blake2b(digest_size=KEY_NBYTES, person=b"version")
    for part in parts:
        encoded = part.encode("utf-8")
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
    return hasher.digest()
