"""Tests of ``deploy/``: what can be run is run, and what cannot be run here is rendered and judged."""
