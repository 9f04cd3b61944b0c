"""Measurements of the running program: real load replayed, crashes, gateways side by side. Run as ``python -m bench``.

Everything here talks to arbstr from outside, over HTTP and its command line; the only things taken from the inside
are the exact price arithmetic and the store's own audit.
"""
