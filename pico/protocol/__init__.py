"""The rules: engines that take bytes and time as arguments and give values back.

No I/O, no clock, no randomness of its own, no greenlet, no actor and no logging lives on this floor.
"""
