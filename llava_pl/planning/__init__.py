"""What a run will need, known before it costs anything: memory, disk, work and time, from its configuration alone."""
