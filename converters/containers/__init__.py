"""One object a file format: index a file without reading its payloads, lay a file out before a byte is written.

:mod:`.container` says what such an object answers, ``container_*.py`` are those that there are, :mod:`.registry` knows
them all. A container knows bytes and names; what a name means is the table's business (:mod:`..table.mapping`).
"""
