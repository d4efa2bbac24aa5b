"""What a build is: its life, its record, its queue."""
