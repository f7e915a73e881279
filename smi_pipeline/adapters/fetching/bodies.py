"""What the body of an answer is: how it is encoded, and whether it is a page or a message instead of an image."""

import re
import zlib
from collections.abc import Iterator

LONGEST_HEAD = 512
"""So many bytes tell what a body is."""

_MAGIC = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|title|body|!--)", re.IGNORECASE)
_MESSAGE = re.compile(rb"\s*[\[{]\s*[\"\]}{][\x20-\x7e\s]*\Z")
_TEXT = re.compile(r"text/|application/(problem\+)?(json|xml|xhtml)")
_ENCODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_PIECE = 64 * 1024


def instead_of_image(media_type: str, head: bytes) -> str | None:
    """Return what a body is that is no image: a page or a message of a server or proxy; None when it may be an image,
    whatever its type says. `head`: its first bytes."""
    if head.startswith(_MAGIC):
        return None
    head = head.removeprefix(b"\xef\xbb\xbf")
    if _PAGE.match(head):
        return "an HTML page"
    media_type = media_type.partition(";")[0].strip().lower()
    if _MESSAGE.match(head[:32]):
        return "JSON"
    return f"{media_type[:50]!r}" if _TEXT.match(media_type) else None


def encoding_of(content: str, transfer: str) -> str:
    """Return how a body is encoded, by its headers: empty when it is not."""
    if transfer.strip().lower() not in ("", "identity", "chunked"):
        return transfer.strip().lower()
    return ", ".join(name for part in content.split(",") if (name := part.strip().lower()) not in ("", "identity"))


class Decoder:
    """Decode a body block by block, in pieces that are small however well it is compressed.

    Raises ValueError unless `can_decode` the encoding.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = _ENCODINGS[encoding] if encoding else ""
        self._unpack = self._begin()
        self._began = False

    @staticmethod
    def can_decode(encoding: str) -> bool:
        """Return whether bodies of this encoding can be read."""
        return not encoding or encoding in _ENCODINGS

    def _begin(self, *, raw: bool = False) -> "zlib._Decompress":
        return zlib.decompressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)

    @property
    def complete(self) -> bool:
        """Return whether a body may end here."""
        return not self._encoding or self._unpack.eof or not self._began

    def pieces(self, block: bytes) -> Iterator[bytes]:
        """Yield what a block decodes to. Raises zlib.error."""
        if not self._encoding:
            yield block
            return
        while block:
            if self._unpack.eof:  # gzip may come in several members
                self._unpack = self._begin()
            try:
                piece = self._unpack.decompress(block, _PIECE)
            except zlib.error:
                if self._began or self._encoding != "deflate":
                    raise
                self._unpack = self._begin(raw=True)  # what some servers call deflate
                piece = self._unpack.decompress(block, _PIECE)
            self._began = True
            if piece:
                yield piece
            block = self._unpack.unused_data if self._unpack.eof else self._unpack.unconsumed_tail
        while self._began and not self._unpack.eof and (piece := self._unpack.decompress(b"", _PIECE)):
            yield piece
