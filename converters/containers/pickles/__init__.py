"""Pickled state dicts, ``.pdparams`` and torch's ``.bin``: followed opcode by opcode, never unpickled."""
