"""Numbers as bits."""

from __future__ import annotations

from vbw_np.teach import byte_bits, float_bits, nibble_bits


def test_bits():
    assert float_bits(1.0) == "0|01111111|" + "0" * 23
    assert float_bits(-2.5)[0] == "1"
    assert nibble_bits(5) == "5 = 0 10 1" and nibble_bits(99) == "99" and nibble_bits("x") == "'x'"
    assert byte_bits(0x5A) == "0x5a = 0101 1010"
