"""The workers: each loads a checkpoint with the software that serves it, the way its documents say, and runs it.

A worker runs in an environment where this project is not installed: these files need the standard library, numpy and
the software. ``PYTHON -I official/__main__.py NAME`` starts one; what it is asked and answers stands in
:mod:`.serving`, and who asks is :mod:`..serving.asking`. They are written for Python 3.8 and later.
"""
