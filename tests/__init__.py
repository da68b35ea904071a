"""Everything that is claimed about Pico, checked. ``spec/README.md`` says how a rule finds its test."""
