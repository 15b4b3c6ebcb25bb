"""The vocabulary of who is who: what the live track, the clustering of a whole recording and the store have in common.

Vectors are what `streaming.diariser.heard.Voice` carries: float32, little-endian, of unit length; vectors of two models
never meet. Labels ("S1", "S2", ...) name speakers of one recording; a voice_id names an enrolled voice of the tenant.

Pure: frozen values.
"""

import msgspec


class Known(msgspec.Struct, frozen=True):
    """An enrolled voice of the tenant, made by the same model."""

    voice_id: str
    vector: bytes


class Speaker(msgspec.Struct, frozen=True):
    """A speaker of the recording. `vector`: the mean of what was heard, empty where nothing was clean; `clean_ms`: how
    much speech that was nobody else's it was taken from."""

    label: str
    vector: bytes
    clean_ms: int


class Merged(msgspec.Struct, frozen=True):
    """`from_` proved to be `into`, for the whole recording: turns that were already told belong to `into`. The label
    `from_` is never given again."""

    from_: str
    into: str


class Recognised(msgspec.Struct, frozen=True):
    """The speaker is an enrolled voice. Said once for each label."""

    label: str
    voice_id: str
