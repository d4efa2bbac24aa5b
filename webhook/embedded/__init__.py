"""Everything on one machine: the processes that `pushwright up` starts, watches and stops."""
