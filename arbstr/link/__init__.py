"""Messages between processes of one program, over a stream: framed, batched, pipelined, answered in any order.

Knows nothing of what is said: the shapes of messages come in as a type, and what is not of that type is refused. It
must not know of accounts, requests or HTTP.
"""

from arbstr.link._client import Link
from arbstr.link._codec import Codec, LinkMessage, Malformed
from arbstr.link._frames import FrameReader, FrameTooLong, frame
from arbstr.link._peer import LinkBroken, LinkError, LinkFull, LinkLost, Peer, Reply, Unsendable

__all__ = [
    "Codec",
    "FrameReader",
    "FrameTooLong",
    "Link",
    "LinkBroken",
    "LinkError",
    "LinkFull",
    "LinkLost",
    "LinkMessage",
    "Malformed",
    "Peer",
    "Reply",
    "Unsendable",
    "frame",
]
