"""Keys depend on content and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np

from embedpipe.manifest.keys import KEY_NBYTES, array_key, content_key, text_key


def test_content_key_is_blake2b_128() -> None:
    assert content_key(b"abc") == hashlib.blake2b(b"abc", digest_size=16).digest()
    assert len(content_key(b"")) == KEY_NBYTES


def test_text_key_is_that_of_its_utf8_bytes() -> None:
    assert text_key("żółw") == content_key("żółw".encode())


def test_array_key_ignores_memory_order() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert array_key(array) == array_key(np.asfortranarray(array)) == array_key(array[::-1][::-1])


def test_array_key_tells_dtype_and_shape_apart() -> None:
    zeros = np.zeros(8, dtype=np.uint8)
    keys = {
        array_key(zeros),
        array_key(zeros.reshape(2, 4)),
        array_key(zeros.reshape(4, 2)),
        array_key(zeros.view(np.int8)),
        array_key(zeros.view("<u2")),
        array_key(zeros.view(">u2")),
    }
    assert len(keys) == 6
