"""The ways to store rows by name."""

from __future__ import annotations

from collections.abc import Mapping

from lifelong.core.errors import UnknownName
from lifelong.memory.codecs import Auto, Bytes, Codec, Half, Int8
from lifelong.memory.jpeg import Jpeg

CODECS: Mapping[str, type[Codec]] = {
    "auto": Auto,
    "fp16": Half,
    "int8": Int8,
    "uint8": Bytes,
    "jpeg": Jpeg,
}


def codec_of(store: str | Codec) -> Codec:
    """Make the codec of a name, or take one as it is.

    Raises:
        UnknownName: there is no codec of that name.

    Example:
        >>> codec_of("fp16").name
        'fp16'
    """
    if isinstance(store, Codec):
        return store
    if store not in CODECS:
        raise UnknownName("way to store rows", str(store), CODECS)
    return CODECS[store]()
