"""One module a file format: index a file without reading its payloads, lay a file out before a byte is written.

Each module answers ``index(path) -> Index`` and ``lay_out(filename, tensors, ...) -> Layout`` in the terms of
:mod:`.stored`. A container knows bytes and names; what a name means is the table's business (:mod:`..mapping`).
"""
