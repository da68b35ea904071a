"""Examples for the engines, one for each rule, in the manner of a playbook."""
