"""What a process does about itself or its children: rights, restarts, an end with the parent."""
