"""What a node and an agent tell about themselves: metrics, access log, log set-up."""
