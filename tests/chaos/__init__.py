"""Breaks the service in every way that it will be broken, and looks for what was lost.

``make chaos``, or ``python -m tests.chaos --list``. The checkers have tests of their own
(``test_checks.py`` beside them), each with a violation that it must catch.
"""
