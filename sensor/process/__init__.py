"""A process and its children: privileges, process names, restarts, and ending with the parent."""
