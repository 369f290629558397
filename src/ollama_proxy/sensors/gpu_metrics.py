"""amdgpu's `gpu_metrics`: a table that changes with the chip; only two of its versions are known here.

Version 1.3 is that of cards (RDNA 1 to 4), 3.0 that of Strix Point and its kin. Offsets are those of
the kernel's kgd_pp_interface.h. All bits set means "not available". In 2.1 (Phoenix) the only word
on throttling has other bits for each chip; it is left alone.
"""

import struct

import attrs

HOT_BITS = 0xFFFF << 32  # of the status that is the same for all chips
_HEADER = struct.Struct("<HBB")
_V1_3 = 120
_V1_3_STATUS = (struct.Struct("<Q"), 112)
_V3_0 = 264
_V3_0_NPU = (struct.Struct("<8H"), 46)
_V3_0_RESIDENCIES = (struct.Struct("<7I"), 228)
_NO_16, _NO_32, _NO_64 = 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


@attrs.frozen
class Metrics:
    """What the table tells that no other file does.

    Attributes:
        is_hot: some thermal limiter is flagged. On cards that idle it may be, for nothing.
        heat_ticks: for how long heat slowed it down, ever, in the firmware's own time.
        prochot_ticks: the same of PROCHOT.
        npu_share: how busy the NPU's columns are, 0 to 1.
    """

    is_hot: bool | None = None
    heat_ticks: int | None = None
    prochot_ticks: int | None = None
    npu_share: float | None = None


NOTHING = Metrics()


def decode(table: bytes) -> Metrics:
    """Decode a table; one of another version tells nothing."""
    if len(table) < _HEADER.size:
        return NOTHING
    size, major, minor = _HEADER.unpack_from(table)
    if (major, minor, size) == (1, 3, _V1_3) and len(table) >= size:
        layout, offset = _V1_3_STATUS
        (status,) = layout.unpack_from(table, offset)
        return Metrics(is_hot=None if status == _NO_64 else bool(status & HOT_BITS))
    if (major, minor, size) == (3, 0, _V3_0) and len(table) >= size:
        layout, offset = _V3_0_NPU
        columns = [c / 100 for c in layout.unpack_from(table, offset) if c != _NO_16]
        layout, offset = _V3_0_RESIDENCIES
        prochot, *_, core, graphics, soc = layout.unpack_from(table, offset)
        heat = [ticks for ticks in (core, graphics, soc) if ticks != _NO_32]
        return Metrics(
            heat_ticks=sum(heat) if heat else None,
            prochot_ticks=None if prochot == _NO_32 else prochot,
            npu_share=min(1.0, sum(columns) / len(columns)) if columns else None,
        )
    return NOTHING
